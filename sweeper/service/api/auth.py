"""Authentication, rate limits and audit: ASGI middleware around the whole app, and FastAPI dependencies."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from http.cookies import CookieError, SimpleCookie
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sweeper.client.models import Role
from sweeper.net import is_loopback_name
from sweeper.service.api.problems import CHALLENGE, of_error
from sweeper.service.db.audit import Audit
from sweeper.service.db.users import LOCAL, User, Users
from sweeper.service.policy.errors import RefusedError, forbidden, reads_only
from sweeper.service.policy.limits import Limits

USER, DETAIL, ADDRESS, _STILL = "sweeper.user", "sweeper.detail", "sweeper.address", "sweeper.still"
"""Keys of a request's scope: user, details for the audit log, client address, and a check that the token is valid."""
OPEN = ("/v1/openapi.json",)
"""Paths of the API that need no user, beside the probes; the pages check the user with `user_of`."""
_CLOSED = ("/v1", "/metrics")
_PROBES = ("/healthz", "/readyz")
_SAFE = ("GET", "HEAD", "OPTIONS")
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_BUCKETS = 10_000
_log = logging.getLogger("sweeper.service")


class Buckets:
    """Token buckets: each name starts with `burst` requests and gains `rate` per second, up to `burst`.

    Args:
        rate: Requests per second; 0 or less is no limit.
        burst: Requests that may come at once.
        clock: Returns seconds.
    """

    def __init__(self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate, self.burst, self.clock = rate, burst, clock
        self._lock = threading.Lock()
        self._level: dict[str, tuple[float, float]] = {}  # name -> requests left, when

    def take(self, name: str) -> float:
        """Take one request; returns 0, or the seconds to wait if none is left."""
        if self.rate <= 0:
            return 0.0
        with self._lock:
            now = self.clock()
            left = self._left(name, now)
            if name not in self._level and len(self._level) >= _BUCKETS:
                self._drop_full(now)
            self._level[name] = (left - 1 if left >= 1 else left, now)
            return self._wait(left)

    def wait(self, name: str) -> float:
        """Return what `take` would return, without taking a request."""
        if self.rate <= 0:
            return 0.0
        with self._lock:
            return self._wait(self._left(name, self.clock()))

    def _left(self, name: str, now: float) -> float:
        left, then = self._level.get(name, (float(self.burst), now))
        return min(float(self.burst), left + (now - then) * self.rate)

    def _wait(self, left: float) -> float:
        return 0.0 if left >= 1 else (1 - left) / self.rate

    def _drop_full(self, now: float) -> None:
        full = [n for n, (left, then) in self._level.items() if left + (now - then) * self.rate >= self.burst]
        for name in full or list(self._level):
            del self._level[name]


class Guard:
    """Passes a request on to the app, or refuses it.

    Args:
        app: The app.
        users: The users and their tokens.
        auth: Whether requests need a token; if not, the user of every request is `users.LOCAL`.
        limits: Limits of requests.
        audit: Log of requests that change something.
    """

    def __init__(self, app: ASGIApp, users: Users, auth: bool, limits: Limits, audit: Audit) -> None:
        self.app, self.users, self.auth, self.limits, self.audit = app, users, auth, limits, audit
        self.buckets = Buckets(limits.rate, limits.burst)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status = 500

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if scope["scheme"] == "https":
                    headers.setdefault("Strict-Transport-Security", "max-age=31536000")
                if scope["path"].startswith("/v1"):
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            try:
                await self._identify(scope)
            except Exception as error:
                await of_error(error, scope["path"])(scope, receive, sent)
                return
            await self.app(scope, self._limit_body(scope, receive), sent)
        finally:
            await self._write_audit(scope, status)

    async def _identify(self, scope: Scope) -> None:
        path, headers = scope["path"], Headers(scope=scope)
        session = cookie(headers.get("cookie", ""), self.users.cookie)
        scheme, _, token = headers.get("authorization", "").partition(" ")
        bearer = token.strip() if scheme.lower() == "bearer" else ""
        if not self.auth and not is_loopback_name(headers.get("host", "")):
            raise forbidden(f"Host must be a loopback name on this service, got {headers.get('host', '')[:200]!r}")
        if scope["method"] not in _SAFE and (not self.auth or not bearer) and not _same_origin(headers):
            raise forbidden(f"a page from {headers.get('origin', '')[:200]} may not change anything on this service")
        if length := headers.get("content-length"):
            if not length.isdigit():
                raise RefusedError(400, f"Content-Length must be a whole number, got {length[:80]!r}")
            if int(length) > self.limits.body:
                raise self._too_large()
        if path in _PROBES:
            return
        user = LOCAL if not self.auth else None
        address = scope[ADDRESS] = f"host {client[0] if (client := scope.get('client')) else ''}"
        if self.auth and (bearer or session):
            if not self.users.recognizes(bearer or session):
                # the rate limit keeps guessed tokens from the database
                self._check_rate(self.buckets.wait(address))
            check = partial(self.users.check, bearer) if bearer else partial(self.users.check_session, session)
            user = await run_in_threadpool(check)
            scope[_STILL] = lambda: check() is not None
        self._check_rate(self.buckets.take(f"user {user.name}" if user else address))
        if user is not None:
            scope[USER] = user
        elif path.startswith(_CLOSED) and path not in OPEN:
            raise unauthorized(bool(bearer or session))

    def _check_rate(self, wait: float) -> None:
        if wait:
            text = f"more than {self.limits.rate:g} requests per second: send fewer"
            raise RefusedError(429, text, {"Retry-After": str(max(1, round(wait)))})

    def _limit_body(self, scope: Scope, receive: Receive) -> Receive:
        size = 0

        async def limited() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.limits.body:
                raise self._too_large()
            return message

        return limited

    def _too_large(self) -> RefusedError:
        return RefusedError(413, f"the body must have at most {self.limits.body} bytes", {"Connection": "close"})

    async def _write_audit(self, scope: Scope, status: int) -> None:
        user: User | None = scope.get(USER)
        route = scope.get("route")
        if scope["method"] in _SAFE or user is None or not isinstance(route, APIRoute):
            return
        detail: dict[str, str] = scope.get(DETAIL, {})
        action = detail.get("action") or route.name
        target = detail.get("target") or scope.get("path_params", {}).get("sweep", "")
        try:
            await run_in_threadpool(self.audit.write, user.name, action, target, detail.get("detail", ""), status)
        except Exception:  # the response is sent already, so only the log can show the failure
            _log.exception("cannot write the audit log")


def unauthorized(given: bool) -> RefusedError:
    """Return the refusal (401) of a request without a token, or with an invalid one if `given`."""
    if given:
        return RefusedError(
            401, "the token is unknown, expired or revoked; an admin creates one by `sweeper token create`", CHALLENGE
        )
    text = "a token is needed: send `Authorization: Bearer TOKEN`; `sweeper token create` creates one"
    return RefusedError(401, text, CHALLENGE)


def _same_origin(headers: Headers) -> bool:
    origin = headers.get("origin")
    try:
        return origin is None or (urlsplit(origin).netloc.lower() == headers.get("host", "").lower() != "")
    except ValueError:  # not a URL
        return False


def cookie(text: str, name: str) -> str:
    """Return the value of a cookie; empty if the header has none with this name."""
    try:
        morsel = SimpleCookie(text).get(name)
    except CookieError:
        return ""
    return morsel.value if morsel else ""


_bearer = HTTPBearer(auto_error=False, description="A token of `sweeper token create`; not needed on loopback.")


async def _user(request: Request, _: Annotated[Any, Depends(_bearer)]) -> User:
    user = user_of(request)
    if user is None:
        raise unauthorized(False)
    return user


async def _submitter(user: Annotated[User, Depends(_user)]) -> User:
    if user.role == Role.VIEWER:
        raise reads_only()
    return user


async def _admin(user: Annotated[User, Depends(_user)]) -> User:
    if not user.admin:
        raise forbidden(f"this needs an admin's token, got one with the role {user.role}")
    return user


Viewer = Annotated[User, Depends(_user)]
"""The user of a request, with any role."""
Submitter = Annotated[User, Depends(_submitter)]
"""The user of a request, who may submit sweeps."""
Admin = Annotated[User, Depends(_admin)]
"""The user of a request, an admin."""


def user_of(connection: HTTPConnection) -> User | None:
    """Return the user of a request; None if the token is missing or invalid."""
    return connection.scope.get(USER)


async def still_valid(request: Request) -> bool:
    """Whether the token of a long-lived request is still valid."""
    check: Callable[[], bool] | None = request.scope.get(_STILL)
    return check is None or await run_in_threadpool(check)


def bucket(request: Request, auth: bool) -> str:
    """Return the name under which a request is counted: its user, or its address if the service has no users."""
    user = user_of(request)
    return f"user {user.name}" if auth and user is not None else request.scope[ADDRESS]


def add_audit_detail(request: Request, **detail: str) -> None:
    """Set what the audit log says about a request: `action`, `target`, `detail`."""
    request.scope.setdefault(DETAIL, {}).update(detail)
