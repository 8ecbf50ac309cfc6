"""The service's pages: dashboards of the sweeps that the user may see, and the sign-in form."""

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
from sweeper.service.api.auth import cookie, user_of
from sweeper.service.db.connections import LostError
from sweeper.service.db.sweeps import Catalog, Entry, UnknownSweepError
from sweeper.service.db.users import SESSION_SECONDS, User, Users
from sweeper.service.http.outgoing import PIECE
from sweeper.service.views.views import Views
from trainables.io.printable import printable_line

if TYPE_CHECKING:
    from sweeper.service.service import Service

OLD_COOKIE = "sweeper_token"
"""Cookie of earlier versions, which held the token; it no longer counts, and responses delete it."""
NAMED = 200
"""Sweeps in the menu beside the shown one."""
PAGES = ("/", "/trials.csv", "/assets/{rest:path}", "/_dash-{rest:path}")
WORKERS = 8
_BODY = 4096
_SAFE = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "same-origin",
}


class CatalogSource:
    """The catalog as a source of sweeps for the dashboards; see `dashboards.app.source.SweepSource`.

    Args:
        catalog: The sweeps.
        views: Their records.
        auth: Whether users sign in.
    """

    events = "v1/events"

    def __init__(self, catalog: Catalog, views: Views, auth: bool) -> None:
        self._catalog, self._views, self._auth = catalog, views, auth
        # without a request there is no viewer, and nothing is visible
        self.viewer: ContextVar[User | None] = ContextVar("viewer", default=None)

    def user(self) -> str:
        """Return the name of the user; empty if users do not sign in."""
        viewer = self.viewer.get()
        return viewer.name if viewer is not None and self._auth else ""

    def place(self, sweep: str) -> str | None:
        """Return the path or URI of a sweep; None if it does not exist or the user may not see it."""
        return self._views.run_of(sweep) if self._entry(sweep) is not None else None

    def redact(self, text: str) -> str:
        """Return a message without the server's paths."""
        return self._views.outward.text(text)

    def find(self, sweep: str) -> Sweep | None:
        """Return a sweep; None as for `place`."""
        entry = self._entry(sweep)
        return _listed(self._views.sweep(entry)) if entry is not None else None

    def list_sweeps(self, states: Sequence[str], owner: str, before: str, limit: int) -> list[Sweep]:
        """Return the newest sweeps in these states, of an owner, older than the sweep `before`; empty is no filter."""
        last = self._entry(before) if before else None
        entries = self._page(
            states=states,
            owner=owner or None,
            after=(last.created, last.id) if last is not None else None,
            limit=limit,
        )
        return [_listed(self._views.sweep(entry)) for entry in entries]

    def owners(self) -> list[str]:
        """Return the owners of the visible sweeps."""
        viewer = self.viewer.get()
        return self._catalog.owners(_bound(viewer)) if viewer is not None else []

    def names(self) -> Mapping[str, str]:
        """Return id -> label of the newest sweeps, newest first."""
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


def _listed(sweep: Sweep) -> Sweep:
    return sweep.model_copy(update={"name": printable_line(sweep.name)})  # earlier versions accepted any characters


def mount(api: FastAPI, service: Service) -> None:
    """Add the pages to the API, whose guard identifies the user.

    Args:
        api: The API.
        service: Its sweeps and users.
    """
    from dashboards.app.app import make_pages

    auth = service.config.auth
    source = CatalogSource(service.catalog, service.views, auth)
    server = make_pages(source)
    server.register_error_handler(SQLAlchemyError, _database_error)
    middleware: Any = WSGIMiddleware(server, workers=WORKERS)  # type: ignore[arg-type]
    pages = _GuardedPages(middleware, source.viewer, service.config.folder)
    for path in PAGES:
        # not a mount, which would also serve paths that the API refuses
        api.router.add_route(path, pages, methods=None, include_in_schema=False)  # type: ignore[arg-type]
    if auth:
        sign_in = _SignIn(service.users)
        api.router.add_route("/login", sign_in.form, methods=["GET"], include_in_schema=False)
        api.router.add_route("/login", sign_in.enter, methods=["POST"], include_in_schema=False)
        api.router.add_route("/logout", sign_in.leave, methods=["POST"], include_in_schema=False)


def _database_error(error: Exception) -> tuple[str, int, dict[str, str]]:
    text = str(error) if isinstance(error, LostError) else "the service's database does not answer; try again"
    return f"{text}\n", 503, {"Retry-After": "5", "Content-Type": "text/plain; charset=utf-8"}


class _GuardedPages:
    """Serves the pages to signed-in users only.

    Args:
        pages: The pages, as an ASGI application.
        viewer: Set to the user while a request is answered.
        folder: Folder for large bodies that wait for a worker.
    """

    def __init__(self, pages: Any, viewer: ContextVar[User | None], folder: Path) -> None:
        self._pages: Callable[[Scope, Receive, Send], Awaitable[None]] = pages
        self._viewer, self._folder = viewer, folder
        self._turns = asyncio.Semaphore(WORKERS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        connection = HTTPConnection(scope)
        viewer = user_of(connection)
        if viewer is None:
            await _refusal(connection, scope["method"])(scope, receive, send)
            return
        # a worker never waits for a client: it gets the whole body, and its whole answer is stored before it is sent
        answer = _StoredAnswer()
        with SpooledTemporaryFile(PIECE, dir=str(self._folder)) as body:
            async for part in Request(scope, receive).stream():
                body.write(part)
            body.seek(0)
            token = self._viewer.set(viewer)
            try:
                async with self._turns:
                    await self._pages(scope, _receive_of(body.read()), answer.take)  # in a thread with this context
            finally:
                self._viewer.reset(token)
        await answer.send(send)


def _receive_of(body: bytes) -> Receive:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


class _StoredAnswer:
    """An answer that is complete before it is sent."""

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
        # a strict cookie does not come with a link from another site, but with this page's reload
        return HTMLResponse(
            '<!DOCTYPE html><meta http-equiv="refresh" content="0"><title>sweeper</title>', headers=_SAFE
        )
    query = connection.url.query
    return RedirectResponse(f"/login?next={quote(query, safe='')}" if query else "/login", status_code=303)


class _SignIn:
    """The form to sign in, and signing out.

    Args:
        users: The users and their tokens.
    """

    def __init__(self, users: Users) -> None:
        self.users = users

    async def form(self, request: Request) -> Response:
        """Return the form, or redirect to the pages if the browser is signed in."""
        query = request.query_params.get("next", "")
        if user_of(request) is not None:
            return _to_pages(query)
        trouble = "The service was upgraded: sign in again."
        return self._new_cookie(request, _page(query, trouble if OLD_COOKIE in request.cookies else ""))

    async def enter(self, request: Request) -> Response:
        """Begin a session if the form holds a valid token."""
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > _BODY:
                return PlainTextResponse(f"the form must have at most {_BODY} bytes\n", status_code=413)
        fields = parse_qs(body.decode("utf-8", "replace"))
        token, query = (fields.get(name, [""])[0].strip() for name in ("token", "next"))
        session = await run_in_threadpool(self.users.sign_in, token)
        if session is None:
            trouble = "This token is unknown, expired or revoked: ask an admin for a new one."
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
        """Set the session cookie; an empty text deletes it, None keeps it."""
        flags: Any = {"httponly": True, "samesite": "strict", "secure": request.url.scheme == "https"}
        if session is not None:
            age = int(SESSION_SECONDS) if session else 0
            answer.set_cookie(self.users.cookie, session, max_age=age, **flags)
        if OLD_COOKIE in request.cookies:
            answer.delete_cookie(OLD_COOKIE, **flags)
        return answer


def _to_pages(query: str) -> Response:
    # always a page of this server, whatever the form contains
    return RedirectResponse(f"/?{quote(query, safe='=&%+,')}" if query else "/", status_code=303)


def _page(query: str, trouble: str = "", status: int = 200) -> HTMLResponse:
    from dashboards.page.html import read_style, render_template

    text = render_template("sign_in.html", style=read_style(), trouble=trouble, query=query)
    return HTMLResponse(text, status_code=status, headers=_SAFE)
