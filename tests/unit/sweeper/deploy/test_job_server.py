"""The job server's client against a server that answers as Ray's does, and as others do."""

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from sweeper.cli.commands.jobs import exit_code, follow
from sweeper.deploy import job_server
from sweeper.deploy.job_server import JobServer, UnreachableError, parse_server_address
from sweeper.errors import SpecError

TOKEN = "a-token-that-nobody-may-see"


def certificate(folder: Path) -> Path:
    """Write a certificate of 127.0.0.1 that only itself vouches for, with its key, and return the file."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "head")])
    found = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / "head.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(private + found.public_bytes(serialization.Encoding.PEM))
    return file


class Answers:
    """What the server says by (method, path): a status and a body, or a function of the headers; and what it saw."""

    def __init__(self) -> None:
        self.by_path: dict[tuple[str, str], Any] = {}
        self.seen: list[tuple[str, str, str | None, bytes]] = []
        self.address = ""
        self.handler: Any = None

    def job(self, name: str, *states: dict[str, Any]) -> None:
        left = list(states)
        self.by_path["GET", f"/api/jobs/{name}"] = lambda _: (200, left.pop(0) if len(left) > 1 else left[0])


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Iterator[Answers]:
    """A server on a free port of this machine; the environment holds a token, and no proxy."""
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    found = Answers()

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            found.seen.append((self.command, self.path, self.headers.get("Authorization"), body))
            status, said = 404, "not found"
            if (known := found.by_path.get((self.command, self.path))) is not None:
                status, said = known(self.headers) if callable(known) else known
            data = said.encode() if isinstance(said, str) else json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            with suppress(ConnectionError):  # of a client that gave up
                self.wfile.write(data)

        do_GET = do_POST = do_PUT = answer  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:
            pass

    found.handler = Handler
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    found.address = f"http://127.0.0.1:{server.server_port}"
    found.by_path["GET", "/api/authentication_mode"] = 200, {"authentication_mode": "disabled"}
    found.by_path["GET", "/api/version"] = 200, {"ray_version": "2.60.0"}
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def secured(answers: Answers, tmp_path: Path) -> Iterator[tuple[str, str]]:
    """The same server behind TLS: its address, and the certificate to trust."""
    file = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    server = ThreadingHTTPServer(("127.0.0.1", 0), answers.handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"https://127.0.0.1:{server.server_port}", str(file)
    server.shutdown()
    server.server_close()
    thread.join()


def asking(answers: Answers) -> None:
    """Let the server ask for the token."""

    def version(headers: Any) -> tuple[int, Any]:
        given = headers.get("Authorization")
        if given is None:
            return 401, "Unauthorized: Missing authentication token"
        return (200, {"ray_version": "2.60.0"}) if given == f"Bearer {TOKEN}" else (403, "Forbidden: Invalid token")

    answers.by_path["GET", "/api/authentication_mode"] = 200, {"authentication_mode": "token"}
    answers.by_path["GET", "/api/version"] = version


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("head:8265", "http://head:8265"),
        ("http://head:8265/", "http://head:8265"),
        ("https://head/ray/", "https://head/ray"),
        ("http://[::1]:8265", "http://[::1]:8265"),
    ],
)
def test_addresses(text: str, address: str) -> None:
    assert parse_server_address(text) == address


@pytest.mark.parametrize("text", ["ray://head:10001", "auto", "local", "ftp://head", "http://", "http://head:port"])
def test_addresses_of_another_kind_are_refused(text: str) -> None:
    with pytest.raises(SpecError, match="http://HEAD:8265"):
        parse_server_address(text)


def test_credentials_in_an_address_are_not_repeated() -> None:
    with pytest.raises(SpecError, match="an address must not hold credentials") as caught:
        parse_server_address("http://me:hush@head:8265")
    assert "hush" not in str(caught.value)


def test_the_token_goes_only_to_servers_that_ask_for_it(answers: Answers) -> None:
    JobServer(answers.address)
    assert {seen[2] for seen in answers.seen} == {None}
    asking(answers)
    answers.seen.clear()
    assert JobServer(answers.address).version == "2.60.0"
    assert [seen[2] for seen in answers.seen] == [None, f"Bearer {TOKEN}"]


def test_no_token_and_a_wrong_one_are_one_line(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    asking(answers)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "a-wrong-one")
    with pytest.raises(
        SpecError, match="refuses this machine's token: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or"
    ) as wrong:
        JobServer(answers.address)
    assert "a-wrong-one" not in str(wrong.value)
    monkeypatch.setattr(job_server, "token", lambda: "")
    with pytest.raises(SpecError, match="asks for a token: RAY_AUTH_TOKEN"):
        JobServer(answers.address)


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_certificates_are_checked(secured: tuple[str, str], answers: Answers) -> None:
    asking(answers)
    address, file = secured
    with pytest.raises(SpecError, match=r"certificate of https://127.0.0.1:\d+ is not trusted: .*--ca FILE"):
        JobServer(address)
    assert answers.seen == []
    assert JobServer(address, file).version == "2.60.0"
    assert JobServer(address, False).version == "2.60.0"


def test_what_is_no_job_server(answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    answers.by_path["GET", "/api/version"] = 200, "<html>hello</html>"
    with pytest.raises(SpecError, match="answers, but is not a Ray job server"):
        JobServer(answers.address)
    with pytest.raises(UnreachableError, match=r"cannot connect to http://127.0.0.1:1: Connection refused"):
        JobServer("http://127.0.0.1:1")
    monkeypatch.setattr(job_server, "ANSWER_SECONDS", 0.2)
    silent = threading.Event()
    answers.by_path["GET", "/api/authentication_mode"] = lambda _: (silent.wait(20), (200, {}))[1]
    try:
        with pytest.raises(UnreachableError, match="does not answer within"):
            JobServer(answers.address)
    finally:
        silent.set()


def test_a_refusal_is_its_last_line(answers: Answers) -> None:
    answers.by_path["POST", "/api/jobs/"] = 500, "Traceback\n  File x\nValueError: no agent"
    with pytest.raises(SpecError, match=r"answers 500 to POST /api/jobs/: ValueError: no agent"):
        JobServer(answers.address).submit("a", "true", {}, {})


def test_an_archive_is_uploaded_once(answers: Answers) -> None:
    server = JobServer(answers.address)
    held: set[str] = set()
    name = "/api/packages/gcs/" + server_name(b"archive")

    def put(_: Any) -> tuple[int, Any]:
        held.add(name)
        return 200, ""

    answers.by_path["GET", name] = lambda _: (200 if name in held else 404, "")
    answers.by_path["PUT", name] = put
    assert {server.upload(b"archive") for _ in range(3)} == {f"gcs://{server_name(b'archive')}"}
    assert [seen[3] for seen in answers.seen if seen[0] == "PUT"] == [b"archive"]


def server_name(archive: bytes) -> str:
    import hashlib

    return f"_ray_pkg_{hashlib.sha256(archive).hexdigest()[:32]}.zip"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Look again at once; yields what sets for how long a server may be away."""
    monkeypatch.setattr("sweeper.cli.commands.jobs.LOOK_SECONDS", 0.01)
    return lambda seconds: monkeypatch.setattr("sweeper.cli.commands.jobs.AWAY_SECONDS", seconds)


def test_a_log_is_followed_by_whole_lines_through_an_outage(answers: Answers, quick: Callable[..., None]) -> None:
    running, done = {"status": "RUNNING"}, {"status": "FAILED", "driver_exit_code": 3}
    answers.job("j", running, running, running, done)
    logs = iter(
        [(200, {"logs": "one\ntw"}), (503, ""), (200, {"logs": "one\ntwo\n"}), (200, {"logs": "one\ntwo\nend"})]
    )
    answers.by_path["GET", "/api/jobs/j/logs"] = lambda _: next(logs)
    lines: list[str] = []
    job = follow(JobServer(answers.address), "j", lines.append)
    assert lines == ["one", "two", "end"]
    assert exit_code(job) == 3


def test_a_server_that_stays_away_is_given_up(answers: Answers, quick: Callable[..., None]) -> None:
    quick(0.2)
    answers.job("j", {"status": "RUNNING"})
    answers.by_path["GET", "/api/jobs/j/logs"] = 503, ""
    with pytest.raises(UnreachableError, match="answers 503"):
        follow(JobServer(answers.address), "j", print)


@pytest.mark.parametrize(
    ("job", "code"),
    [
        ({"status": "SUCCEEDED", "driver_exit_code": 0}, 0),
        ({"status": "FAILED", "driver_exit_code": 3}, 3),
        ({"status": "FAILED", "driver_exit_code": -9}, 137),
        ({"status": "FAILED", "driver_exit_code": None}, 1),
        ({"status": "STOPPED"}, 130),
    ],
)
def test_exit_codes(job: dict[str, Any], code: int) -> None:
    assert exit_code(job) == code
