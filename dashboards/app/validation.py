"""Validation of callback calls: the app refuses calls that its page never sends, with a problem document (RFC 9457).

Without it, Dash answers such calls with status 500 and logs a traceback, even behind the service's middleware.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import flask
from dash import Dash
from dash.exceptions import DependencyException, InvalidResourceError
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from werkzeug.exceptions import BadRequest, HTTPException, NotFound, UnsupportedMediaType

MEDIA = "application/problem+json"
CALL = "/_dash-update-component"
_MOST_LETTERS = 80

T = TypeVar("T")
Text = str | None
Theme = Literal["", "light", "dark"] | None
Row = Annotated[int, Field(ge=0, lt=2**31)]


class DrawRequest(BaseModel):
    """Request of the page for its content."""

    search: str
    theme: Literal["light", "dark"]
    version: str


class RowsRequest(BaseModel):
    """Request of the grid for rows."""

    start: Row = Field(0, alias="startRow")
    end: Row = Field(0, alias="endRow")
    rules: dict[str, Any] | None = Field(None, alias="filterModel")
    order: list[dict[str, Any]] | None = Field(None, alias="sortModel")


class _Part(BaseModel):
    id: str | dict[str, Any]
    property: str


class _Call(BaseModel):
    output: str
    outputs: _Part | list[_Part | list[_Part]]
    inputs: list[_Part]
    state: list[_Part] = []
    changed: list[str] = Field([], alias="changedPropIds")


def validate(*kinds: Any) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Return a decorator that makes a callback refuse arguments of other types than these."""
    adapters = [TypeAdapter(kind) for kind in kinds]

    def decorate(callback: Callable[..., T]) -> Callable[..., T]:
        @functools.wraps(callback)
        def call(*values: Any) -> T:
            for adapter, value in zip(adapters, values, strict=True):
                try:
                    adapter.validate_python(value)
                except ValidationError as error:
                    raise BadRequest(_describe_error("page value", error)) from None
            return callback(*values)

        return call

    return decorate


def guard(dash: Dash) -> None:
    """Make an app refuse calls that its page never sends, without a traceback in the log."""

    @dash.server.before_request
    def check() -> None:
        if flask.request.path == CALL and flask.request.method == "POST":
            _check(dash)

    @dash.server.errorhandler(HTTPException)
    def refuse(error: HTTPException) -> flask.Response:
        return _make_problem(error)

    @dash.server.errorhandler(DependencyException)
    @dash.server.errorhandler(InvalidResourceError)
    def report_missing_file(_: Exception) -> flask.Response:
        return _make_problem(NotFound("page file not found"))


def _check(dash: Dash) -> None:
    if not flask.request.is_json:
        raise UnsupportedMediaType("a page call must be application/json")
    try:
        call = _Call.model_validate(flask.request.get_json())
    except ValidationError as error:
        raise BadRequest(_describe_error("page call", error)) from None
    except (BadRequest, RecursionError):
        raise BadRequest("a page call must be valid JSON") from None
    known: Mapping[str, Any] = dash.callback_map.get(call.output, {})
    if "callback" not in known:  # unknown, or runs in the browser
        raise BadRequest(f"unknown callback output {call.output[:_MOST_LETTERS]!r}")
    for kind, given in (("inputs", call.inputs), ("state", call.state)):
        wanted = [f"{part['id']}.{part['property']}" for part in known[kind]]
        if [f"{part.id}.{part.property}" for part in given] != wanted:
            raise BadRequest(f"{kind} must be {', '.join(wanted) or 'empty'}")
    several = isinstance(known["output"], Sequence)
    outputs = known["output"] if several else [known["output"]]
    given = call.outputs if several else [call.outputs]
    if not isinstance(given, list) or len(given) != len(outputs) or not all(map(_matches, outputs, given)):
        raise BadRequest(f"outputs must be those of {call.output[:_MOST_LETTERS]!r}")


def _matches(output: Any, given: Any) -> bool:
    name = output.component_id
    if isinstance(name, str):
        return not isinstance(given, list) and given.id == name and given.property == output.component_property
    # a pattern matches any number of components whose ids have these keys
    return isinstance(given, list) and all(
        isinstance(part.id, dict) and part.id.keys() == name.keys() for part in given
    )


def _describe_error(what: str, error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    rule = first["msg"].replace("Input should", "must").partition(" or instance of ")[0]
    given = repr(first["input"])
    return f"{what}: {f'{place}: ' if place else ''}{rule}, got {given[:_MOST_LETTERS]}"


def _make_problem(error: HTTPException) -> flask.Response:
    status = error.code or 500
    body = {
        "type": "about:blank",
        "title": error.name,
        "status": status,
        "detail": error.description or error.name,
        "instance": flask.request.path,
    }
    original = error.get_response()
    answer = flask.Response(json.dumps(body), status, mimetype=MEDIA)
    if "Allow" in original.headers:
        answer.headers["Allow"] = original.headers["Allow"]
    return answer
