"""Problem documents (RFC 9457): each error of the API with its status and one sentence."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from sweeper.client.models import Problem
from sweeper.errors import AwayError, SpecError, StorageError, shortage
from sweeper.service.db.connections import LostError
from sweeper.service.db.sweeps import KeyReusedError, StateError, UnknownSweepError
from sweeper.service.policy.errors import RefusedError
from sweeper.storage.retry import is_full
from trainables.io.printable import printable, printable_line

MEDIA = "application/problem+json"
CHALLENGE = {"WWW-Authenticate": "Bearer"}
_STATUS: Mapping[type[Exception], int] = {UnknownSweepError: 404, StateError: 409, KeyReusedError: 422}
_log = logging.getLogger("sweeper.service")


def problem(status: int, detail: str, instance: str = "", headers: Mapping[str, str] | None = None) -> Response:
    """Return the response of an error."""
    title = HTTPStatus(status).phrase
    body = Problem(title=title, status=status, detail=detail, instance=instance).model_dump_json()
    return Response(printable(body), status, headers, MEDIA)


def of_error(error: Exception, instance: str = "", outward: Callable[[str], str] = str) -> Response:
    """Return the response of an exception that the project's own code raises; `outward` as for `install`."""
    said = outward(str(error))
    if isinstance(error, RefusedError):
        return problem(error.status, said, instance, error.headers)
    if isinstance(error, AwayError):
        return problem(503, f"the service's storage does not answer: {said}", instance, {"Retry-After": "10"})
    if isinstance(error, SpecError):
        return problem(_STATUS.get(type(error), 422), said, instance)
    if isinstance(error, StorageError):
        return problem(503, said, instance, {"Retry-After": "10"})
    if is_full(error):
        _log.error("no room at %s: %s", printable_line(instance), error)
        return problem(503, "the service's disk is full: an admin must make room", instance, {"Retry-After": "60"})
    if isinstance(error, LostError):
        return problem(503, said, instance, {"Retry-After": "60"})
    if isinstance(error, OSError) and (lack := shortage(error)):
        _log.warning("%s", lack)
        return problem(503, f"{lack}; try again", instance, {"Retry-After": "5"})
    if isinstance(error, OperationalError | InterfaceError | PoolTimeout):
        _log.warning("database: %s", error)
        return problem(503, "the service's database does not answer; try again", instance, {"Retry-After": "5"})
    _log.error("internal error at %s", printable_line(instance), exc_info=error)
    return problem(500, f"internal error: {type(error).__name__}; the server's log has more", instance)


def install(api: FastAPI, outward: Callable[[str], str]) -> None:
    """Make all errors of an app problem documents.

    Args:
        api: The app.
        outward: Turns a sentence into what others may read.
    """

    async def refused(request: Request, error: Exception) -> Response:
        return of_error(error, request.url.path, outward)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return problem(422, sentence(error.errors()), request.url.path)

    async def by_status(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return problem(error.status_code, str(error.detail), request.url.path, error.headers)

    async def gone(request: Request, error: Exception) -> Response:
        # nobody reads this; without it each such client would be a traceback in the log
        return problem(400, "the client left before its request was here", request.url.path)

    api.add_exception_handler(ClientDisconnect, gone)
    for kind in (SpecError, OSError, OperationalError, InterfaceError, PoolTimeout, Exception):
        api.add_exception_handler(kind, refused)
    api.add_exception_handler(RequestValidationError, invalid)
    api.add_exception_handler(HTTPException, by_status)


def sentence(errors: Iterable[Mapping[str, Any]]) -> str:
    """Return what is wrong with a request's parameters: rule and value of the first that is."""
    error = next(iter(errors))
    place = [str(p) for p in error["loc"] if not isinstance(p, int)]
    name = place[-1] if len(place) > 1 else "the request"
    if error["type"] == "missing":
        return f"{name} is missing: give it as a {place[0]} parameter"
    rule = re.sub(r"^Value error, ", "", error["msg"]).replace("Input should", "must")
    rule = rule.replace("String should", "must").replace("List should", "must")
    given = repr(error.get("input"))
    return f"{name}: {rule[0].lower()}{rule[1:]}, got {given if len(given) <= 80 else given[:77] + '...'}"


_TEXTS = {
    400: "cannot read the body: not JSON: Expecting value at line 1",
    401: "a token is needed: send `Authorization: Bearer TOKEN`; `sweeper token create` makes one",
    403: "sweep digits_cnn-1f2e3d4c5b is anna's: you may look at it, not change it",
    404: "there is no sweep 'x'; `GET /v1/sweeps` lists the sweeps that you may see",
    405: "PUT is not for /v1/sweeps: use GET, POST",
    406: "trials come as application/json, application/vnd.apache.arrow.stream or application/vnd.apache.parquet",
    409: "sweep digits_cnn-1f2e3d4c5b is done: it cannot become stopping",
    413: "the body must be at most 1048576 bytes",
    415: "a spec must be application/json or application/yaml, got 'text/plain'",
    422: "unknown space 'digits_cn'; did you mean digits_cnn?",
    429: "more than 500 requests a second: send fewer",
    500: "internal error: KeyError; the server's log has more",
    503: "the service's database does not answer; try again",
}
_ALWAYS = (401, 403, 413, 422, 429, 500, 503)
_REF = {"$ref": "#/components/schemas/Problem"}


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return OpenAPI's responses for errors: those of every route, and these."""
    found: dict[int | str, dict[str, Any]] = {}
    for status in sorted({*_ALWAYS, *statuses}):
        phrase = HTTPStatus(status).phrase
        example = {"type": "about:blank", "title": phrase, "status": status, "detail": _TEXTS[status], "instance": ""}
        found[status] = {"description": phrase, "content": {MEDIA: {"schema": _REF, "example": example}}}
    found[401]["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}, "description": "Bearer"}}
    return found
