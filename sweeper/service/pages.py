"""The service's pages: the dashboards of the sweeps that whoever asks may see, and the form to sign in."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote

from a2wsgi import WSGIMiddleware
from fastapi import FastAPI
from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.requests import HTTPConnection, Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import Message, Receive, Scope, Send

from sweeper.client.models import Sweep
from sweeper.service.api.auth import cookie, who
from sweeper.service.db.connections import LostError
from sweeper.service.db.sweeps import Catalog, Entry, UnknownSweepError
from sweeper.service.db.users import SESSION_SECONDS, User, Users
from sweeper.service.http.outgoing import PIECE
from sweeper.service.views.views import Views
from trainables.io.printable import printable_line

if TYPE_CHECKING:
    from dashboards.app.source import Listed
    from sweeper.service.service import Service

OLD_COOKIE = "sweeper_token"
"""Cookie of earlier versions, which held the token itself: it signs nobody in, and browsers are told to drop it."""
NAMED = 200
"""Sweeps that can be chosen beside the one that is shown."""
PAGES = ("/", "/trials.csv", "/assets/{rest:path}", "/_dash-{rest:path}")
WORKERS = 8
_BODY = 4096
_SAFE = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "same-origin",
}


class Offered:
    """The catalog's sweeps as the dashboards take them; see `dashboards.app.source.Offer`.

    Args:
        catalog: The sweeps.
        views: What they are like now.
        auth: Whether users sign in.
    """

    events = "v1/events"

    def __init__(self, catalog: Catalog, views: Views, auth: bool) -> None:
        self._catalog, self._views, self._auth = catalog, views, auth
        # nobody unless a request says who: what runs outside of one sees nothing
        self.viewer: ContextVar[User | None] = ContextVar("viewer", default=None)

    def asker(self) -> str:
        """Return the name of who asks; empty where nobody has to sign in."""
        viewer = self.viewer.get()
        return viewer.name if viewer is not None and self._auth else ""

    def place(self, sweep: str) -> str | None:
        """Return the path or URI of a sweep; None where there is none, or it may not be seen."""
        return self._views.run_of(sweep) if self._entry(sweep) is not None else None

    def outward(self, text: str) -> str:
        """Return a message as others may read it."""
        return self._views.outward.text(text)

    def find(self, sweep: str) -> Listed | None:
        """Return one sweep; None as for `place`."""
        entry = self._entry(sweep)
        return _listed(self._views.sweep(entry)) if entry is not None else None

    def listed(self, states: Sequence[str], owner: str, before: str, limit: int) -> list[Listed]:
        """Return the newest sweeps in some states, of one owner, older than one of them; empty for all."""
        last = self._entry(before) if before else None
        found = self._page(
            states=states,
            owner=owner or None,
            after=(last.created, last.id) if last is not None else None,
            limit=limit,
        )
        return [_listed(self._views.sweep(entry)) for entry in found]

    def owners(self) -> list[str]:
        """Return whose sweeps there are to see."""
        viewer = self.viewer.get()
        return self._catalog.owners(_bound(viewer)) if viewer is not None else []

    def names(self) -> Mapping[str, str]:
        """Return id -> words for people of the newest sweeps, the newest first."""
        return {entry.id: f"{printable_line(entry.name)} · {entry.owner}" for entry in self._page(limit=NAMED)}

    def _page(self, **wanted: Any) -> Sequence[Entry]:
        viewer = self.viewer.get()
        return self._catalog.page(seen_by=_bound(viewer), **wanted) if viewer is not None else []

    def _entry(self, sweep: str) -> Entry | None:
        viewer = self.viewer.get()
        if viewer is None:
            return None
        try:
            entry = self._catalog.get(sweep)
        except UnknownSweepError:
            return None
        return entry if viewer.sees(entry) else None


def _bound(viewer: User) -> str | None:
    return None if viewer.admin else viewer.name


def _listed(sweep: Sweep) -> Listed:
    from dashboards.app.source import Listed

    regime, best = sweep.regime, sweep.best
    return Listed(
        id=sweep.id,
        name=printable_line(sweep.name),  # of an earlier version's sweep, which took any
        owner=sweep.owner,
        space=sweep.space,
        shared=sweep.shared,
        state=sweep.state.value,
        reason=sweep.reason,
        position=sweep.position,
        created=sweep.created,
        ended=sweep.ended,
        budget=sweep.progress.budget,
        done=sweep.progress.done,
        failed=sweep.progress.failed,
        noise=regime.optimum if regime is not None else None,
        low=regime.low if regime is not None else None,
        high=regime.high if regime is not None else None,
        unit=regime.unit if regime is not None else "",
        objective=best.objective if best is not None else sweep.objective,
        best=best.value if best is not None else None,
    )


def mount(api: FastAPI, service: Service) -> None:
    """Add the pages to the API, whose guard knows who asks.

    Args:
        api: The API.
        service: Its sweeps and users.
    """
    from dashboards.app.app import make_pages

    auth = service.config.auth
    offered = Offered(service.catalog, service.views, auth)
    server = make_pages(offered)
    server.register_error_handler(SQLAlchemyError, _away)
    made: Any = WSGIMiddleware(server, workers=WORKERS)  # type: ignore[arg-type]
    pages = _Guarded(made, offered.viewer, service.config.folder)
    for path in PAGES:
        # not as a mount, which would also take what the API refuses
        api.router.add_route(path, pages, methods=None, include_in_schema=False)  # type: ignore[arg-type]
    if auth:
        door = _Door(service.users)
        api.router.add_route("/login", door.form, methods=["GET"], include_in_schema=False)
        api.router.add_route("/login", door.enter, methods=["POST"], include_in_schema=False)
        api.router.add_route("/logout", door.leave, methods=["POST"], include_in_schema=False)


def _away(error: Exception) -> tuple[str, int, dict[str, str]]:
    text = str(error) if isinstance(error, LostError) else "the service's database does not answer; try again"
    return f"{text}\n", 503, {"Retry-After": "5", "Content-Type": "text/plain; charset=utf-8"}


class _Guarded:
    """Has the pages asked by known users only.

    Args:
        pages: The pages, as an ASGI application.
        viewer: Told who asks for as long as a request is answered.
        folder: Where large bodies wait for a worker.
    """

    def __init__(self, pages: Any, viewer: ContextVar[User | None], folder: Path) -> None:
        self._pages: Callable[[Scope, Receive, Send], Awaitable[None]] = pages
        self._viewer, self._folder = viewer, folder
        self._turns = asyncio.Semaphore(WORKERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = HTTPConnection(scope)
        viewer = who(connection)
        if viewer is None:
            await _refusal(connection, scope["method"])(scope, receive, send)
            return
        # a worker never waits for a client: the whole body is here first, and the whole answer before it is sent
        answer = _Taken()
        with SpooledTemporaryFile(PIECE, dir=str(self._folder)) as body:
            async for part in Request(scope, receive).stream():
                body.write(part)
            body.seek(0)
            token = self._viewer.set(viewer)
            try:
                async with self._turns:
                    await self._pages(scope, _given(body.read()), answer.take)  # in a thread with this context
            finally:
                self._viewer.reset(token)
        await answer.send(send)


def _given(body: bytes) -> Receive:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


class _Taken:
    """An answer that is whole before its client gets it."""

    def __init__(self) -> None:
        self._start: Message = {}
        self._parts: list[bytes] = []

    async def take(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
        else:
            self._parts.append(message.get("body", b""))

    async def send(self, send: Send) -> None:
        body = b"".join(self._parts)
        self._parts.clear()
        await send(self._start)
        await send({"type": "http.response.body", "body": body, "more_body": False})


def _refusal(connection: HTTPConnection, method: str) -> Response:
    if connection.url.path != "/" or method not in ("GET", "HEAD"):
        return PlainTextResponse("sign in first: /login\n", status_code=401, headers={"WWW-Authenticate": "Bearer"})
    if connection.headers.get("sec-fetch-site") == "cross-site":
        # a strict cookie does not come with a link from elsewhere; it does when the page asks for itself
        return HTMLResponse(
            '<!DOCTYPE html><meta http-equiv="refresh" content="0"><title>sweeper</title>', headers=_SAFE
        )
    query = connection.url.query
    return RedirectResponse(f"/login?next={quote(query, safe='')}" if query else "/login", status_code=303)


class _Door:
    """The form to sign in, and the way out.

    Args:
        users: Whose tokens are good.
    """

    def __init__(self, users: Users) -> None:
        self.users = users

    async def form(self, request: Request) -> Response:
        """Return the form; the pages where the browser is signed in."""
        query = request.query_params.get("next", "")
        if who(request) is not None:
            return _to_pages(query)
        trouble = "This service has a new version, which ends earlier sign-ins: sign in again."
        return self._new_cookie(request, _page(query, trouble if OLD_COOKIE in request.cookies else ""))

    async def enter(self, request: Request) -> Response:
        """Begin a session where the form holds a good token."""
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > _BODY:
                return PlainTextResponse(f"a form of at most {_BODY} bytes is taken\n", status_code=413)
        fields = parse_qs(body.decode("utf-8", "replace"))
        token, query = (fields.get(name, [""])[0].strip() for name in ("token", "next"))
        session = await run_in_threadpool(self.users.sign_in, token)
        if session is None:
            trouble = "This token is not known, has expired or was revoked: ask an admin for another one."
            return _page(query, trouble, 403)
        await self._end(request)
        return self._new_cookie(request, _to_pages(query), session)

    async def leave(self, request: Request) -> Response:
        """End the session."""
        await self._end(request)
        return self._new_cookie(request, RedirectResponse("/login", status_code=303), "")

    async def _end(self, request: Request) -> None:
        if session := cookie(request.headers.get("cookie", ""), self.users.cookie):
            await run_in_threadpool(self.users.sign_out, session)

    def _new_cookie(self, request: Request, answer: Response, session: str | None = None) -> Response:
        """Make the browser keep a session, or drop it if the text is empty; None leaves it."""
        flags: Any = {"httponly": True, "samesite": "strict", "secure": request.url.scheme == "https"}
        if session is not None:
            age = int(SESSION_SECONDS) if session else 0
            answer.set_cookie(self.users.cookie, session, max_age=age, **flags)
        if OLD_COOKIE in request.cookies:
            answer.delete_cookie(OLD_COOKIE, **flags)
        return answer


def _to_pages(query: str) -> Response:
    # always a page of this server, whatever the form says
    return RedirectResponse(f"/?{quote(query, safe='=&%+,')}" if query else "/", status_code=303)


def _page(query: str, trouble: str = "", status: int = 200) -> HTMLResponse:
    from dashboards.page.html import read_style, render_template

    text = render_template("sign_in.html", style=read_style(), trouble=trouble, query=query)
    return HTMLResponse(text, status_code=status, headers=_SAFE)
