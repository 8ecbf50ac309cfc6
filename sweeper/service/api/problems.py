"""Problem documents (RFC 9457): every error of the API has a status and one sentence."""

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
    """Return the response to an exception; `outward` as for `install`."""
    detail = outward(str(error))
    if isinstance(error, RefusedError):
        return problem(error.status, detail, instance, error.headers)
    if isinstance(error, AwayError):
        return problem(503, f"the service's storage does not answer: {detail}", instance, {"Retry-After": "10"})
    if isinstance(error, SpecError):
        return problem(_STATUS.get(type(error), 422), detail, instance)
    if isinstance(error, StorageError):
        return problem(503, detail, instance, {"Retry-After": "10"})
    if is_full(error):
        _log.error("disk full at %s: %s", printable_line(instance), error)
        return problem(503, "the service's disk is full: an admin must free space", instance, {"Retry-After": "60"})
    if isinstance(error, LostError):
        return problem(503, detail, instance, {"Retry-After": "60"})
    if isinstance(error, OSError) and (lack := shortage(error)):
        _log.warning("%s", lack)
        return problem(503, f"{lack}; try again", instance, {"Retry-After": "5"})
    if isinstance(error, OperationalError | InterfaceError | PoolTimeout):
        _log.warning("database: %s", error)
        return problem(503, "the service's database does not answer; try again", instance, {"Retry-After": "5"})
    _log.error("internal error at %s", printable_line(instance), exc_info=error)
    return problem(500, f"internal error: {type(error).__name__}; see the server's log", instance)


def install(api: FastAPI, outward: Callable[[str], str]) -> None:
    """Turn all errors of an app into problem documents.

    Args:
        api: The app.
        outward: Removes the server's paths from a sentence.
    """

    async def refused(request: Request, error: Exception) -> Response:
        return of_error(error, request.url.path, outward)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return problem(422, sentence(error.errors()), request.url.path)

    async def by_status(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return problem(error.status_code, str(error.detail), request.url.path, error.headers)

    async def disconnected(request: Request, error: Exception) -> Response:
        # nobody reads this, but without it every such client would log a traceback
        return problem(400, "the client disconnected before it had sent its request", request.url.path)

    api.add_exception_handler(ClientDisconnect, disconnected)
    for kind in (SpecError, OSError, OperationalError, InterfaceError, PoolTimeout, Exception):
        api.add_exception_handler(kind, refused)
    api.add_exception_handler(RequestValidationError, invalid)
    api.add_exception_handler(HTTPException, by_status)


def sentence(errors: Iterable[Mapping[str, Any]]) -> str:
    """Return a sentence with the rule and the value of the first invalid parameter."""
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
    403: "sweep digits_cnn-1f2e3d4c5b belongs to anna: you may see it, but not change it",
    404: "there is no sweep 'x'; `GET /v1/sweeps` lists the sweeps that you may see",
    405: "/v1/sweeps does not support PUT: use GET, POST",
    406: "Accept must allow application/json, application/vnd.apache.arrow.stream or application/vnd.apache.parquet",
    409: "sweep digits_cnn-1f2e3d4c5b is done: it cannot become stopping",
    413: "the body must have at most 1048576 bytes",
    415: "a spec must be application/json or application/yaml, got 'text/plain'",
    422: "unknown space 'digits_cn'; did you mean digits_cnn?",
    429: "more than 500 requests per second: send fewer",
    500: "internal error: KeyError; see the server's log",
    503: "the service's database does not answer; try again",
}
_ALWAYS = (401, 403, 413, 422, 429, 500, 503)
_REF = {"$ref": "#/components/schemas/Problem"}


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI responses for errors with these statuses and those that every route has."""
    responses: dict[int | str, dict[str, Any]] = {}
    for status in sorted({*_ALWAYS, *statuses}):
        phrase = HTTPStatus(status).phrase
        example = {"type": "about:blank", "title": phrase, "status": status, "detail": _TEXTS[status], "instance": ""}
        responses[status] = {"description": phrase, "content": {MEDIA: {"schema": _REF, "example": example}}}
    responses[401]["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}, "description": "Bearer"}}
    return responses
