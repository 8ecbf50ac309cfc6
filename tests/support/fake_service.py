"""A service in a thread that speaks the API's contract, and loses connections, is away or refuses when told to."""

from __future__ import annotations

import json
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa

from tests.support.trial_rows import table

PROBLEM = "application/problem+json"
DROP = "drop"
"""The request is carried out, and the connection closed instead of an answer."""


def sweep(name: str = "synthetic-1", state: str = "queued", **more: Any) -> dict[str, Any]:
    """Return a sweep as the service answers with it."""
    found = {"id": name, "name": name, "owner": "ada", "space": "synthetic", "sampler": "noise"}
    found |= {"objective": "gain_mean", "state": state, "created": "2026-01-02T03:04:05Z", "run": f"/srv/runs/{name}"}
    found |= {"progress": {"budget": 4}, "url": f"/v1/sweeps/{name}", "page": f"/?run={name}", "spec": {"trials": 4}}
    return {**found, **more}


def event(number: int, kind: str, name: str = "synthetic-1", **data: Any) -> dict[str, Any]:
    """Return an event as the service sends it."""
    return {"id": number, "sweep": name, "type": kind, "time": "2026-01-02T03:04:05Z", "data": data}


class FakeService:
    """What the service holds, what it saw, and what it does wrong next."""

    def __init__(self) -> None:
        self.url = ""
        self.sweeps: dict[str, dict[str, Any]] = {}
        self.rows: list[dict[str, Any]] = []
        self.page_rows = 2
        self.on_page: Callable[[], None] = lambda: None
        self.keys: dict[str, str] = {}
        self.seen: list[tuple[str, str, dict[str, list[str]], dict[str, str], bytes]] = []
        self.faults: dict[tuple[str, str], deque[Any]] = {}
        """(method, path) -> what goes wrong with the next requests: DROP, or (status, headers, problem's sentence)."""
        self.answers: dict[tuple[str, str], tuple[Any, ...]] = {}
        """(method, path) -> status, media type, body and perhaps headers, whatever the state."""
        self.streams: deque[list[Any]] = deque()
        """Of each connection to events: events, comments (text), None for a loss, or a callable with an effect."""

    def fault(self, method: str, path: str, *what: Any) -> None:
        """Let the next requests go wrong."""
        self.faults.setdefault((method, path), deque()).extend(what)

    def asked(self, method: str, path: str) -> list[tuple[dict[str, list[str]], dict[str, str], bytes]]:
        """Return query, headers and body of the requests that came."""
        return [(query, headers, body) for m, p, query, headers, body in self.seen if (m, p) == (method, path)]

    def answer(self, method: str, path: str, query: dict[str, list[str]], headers: dict[str, str], body: bytes) -> Any:
        """Carry out a request; returns status, media type, body and headers."""
        if (known := self.answers.get((method, path))) is not None:
            return known if len(known) > 3 else (*known, {})
        if (method, path) == ("POST", "/v1/sweeps"):
            return self._submitted(query, headers)
        if (method, path) == ("GET", "/v1/sweeps"):
            return self._listed(query)
        name, _, action = path.removeprefix("/v1/sweeps/").partition("/")
        if name not in self.sweeps:
            return _problem(404, f"there is no sweep {name!r}")
        if method == "DELETE":
            if query.get("confirm") != [name]:
                return _problem(422, f"confirm must be {name}")
            del self.sweeps[name]
            return 204, "text/plain", b"", {}
        if action == "trials":
            return self._trials(query)
        changed = {"stop": "stopping", "cancel": "cancelled", "resume": "queued", "extend": "queued"}.get(action)
        if changed:
            self.sweeps[name]["state"] = changed
        if action == "extend":
            return _json(202, {"id": name, "trials": 3, "message": "the ends are missing"})
        return _json(202 if changed else 200, self.sweeps[name])

    def _submitted(self, query: dict[str, list[str]], headers: dict[str, str]) -> Any:
        estimate = {"configurations": 4, "trials": 4}
        if query.get("dry_run") == ["true"]:
            return _json(200, estimate)
        key = headers["idempotency-key"]
        name = self.keys.setdefault(key, f"synthetic-{len(self.keys) + 1}")
        self.sweeps.setdefault(name, sweep(name))
        return _json(202, {"id": name, "url": f"/v1/sweeps/{name}", "state": "queued", "estimate": estimate})

    def _listed(self, query: dict[str, list[str]]) -> Any:
        names = list(self.sweeps)
        start = names.index(query["after"][0]) + 1 if "after" in query else 0
        page = names[start : start + 2]
        items = [{k: v for k, v in self.sweeps[n].items() if k != "spec"} for n in page]
        return _json(200, {"items": items, "next": page[-1] if start + 2 < len(names) else None})

    def _trials(self, query: dict[str, list[str]]) -> Any:
        after = int(query.get("after", ["0"])[0])
        last = min(after + self.page_rows, len(self.rows))
        found = table(self.rows[after:last])
        if "columns" in query:
            found = found.select(query["columns"][0].split(","))
        more = last < len(self.rows)
        self.on_page()
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, found.schema) as writer:
            writer.write_table(found)
        headers = {"Sweeper-Next": str(last), "Sweeper-More": str(more).lower()}
        return 200, "application/vnd.apache.arrow.stream", sink.getvalue().to_pybytes(), headers


def _json(status: int, record: Any) -> Any:
    return status, "application/json", json.dumps(record).encode(), {}


def _problem(status: int, sentence: str, headers: dict[str, str] | None = None) -> Any:
    record = {"title": "No", "status": status, "detail": sentence}
    return status, PROBLEM, json.dumps(record).encode(), headers or {}


@contextmanager
def serving() -> Iterator[FakeService]:
    """Yield a service on a free port of this machine."""
    service = FakeService()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            parts, headers = urlsplit(self.path), {k.lower(): v for k, v in self.headers.items()}
            body = self.rfile.read(int(headers.get("content-length") or 0))
            query = parse_qs(parts.query)
            service.seen.append((self.command, parts.path, query, headers, body))
            faults = service.faults.get((self.command, parts.path))
            fault = faults.popleft() if faults else None
            if isinstance(fault, tuple):
                status, more, sentence = fault
                return self.send(*_problem(status, sentence, more))
            if parts.path.endswith("/events"):
                return self.stream()
            found = service.answer(self.command, parts.path, query, headers, body)
            return self.cut() if fault == DROP else self.send(*found)

        def send(self, status: int, kind: str, data: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for key, value in {"Content-Type": kind, "Content-Length": str(len(data)), **headers}.items():
                self.send_header(key, value)
            self.end_headers()
            with suppress(ConnectionError):
                self.wfile.write(data)

        def cut(self) -> None:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)

        def stream(self) -> None:
            script = service.streams.popleft() if service.streams else []
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            with suppress(ConnectionError):
                for item in script:
                    if callable(item):
                        item()
                    elif item is None:
                        return self.cut()
                    elif isinstance(item, str):
                        self.chunk(f": {item}\n\n")
                    else:
                        # in two pieces, as networks do
                        text = f"id: {item['id']}\r\nevent: {item['type']}\r\ndata: {json.dumps(item)}\r\n\r\n"
                        self.chunk(text[:25])
                        self.chunk(text[25:])
                self.chunk("")
            return None

        def chunk(self, text: str) -> None:
            self.wfile.write(f"{len(text.encode()):x}\r\n{text}\r\n".encode())

        do_GET = do_POST = do_DELETE = answer  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            if not isinstance(sys.exc_info()[1], ConnectionError):  # of a client that went away
                super().handle_error(request, client_address)

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    service.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
