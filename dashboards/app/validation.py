"""Validation of callback calls: an app refuses calls that its page never sends, by a problem document (RFC 9457).

Without it Dash answers them with status 500 and a traceback in the log, behind the service's middleware, too.
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
_KNOWN = 80

T = TypeVar("T")
Text = str | None
Theme = Literal["", "light", "dark"] | None
Row = Annotated[int, Field(ge=0, lt=2**31)]


class Asked(BaseModel):
    """What the page wants to be drawn."""

    search: str
    theme: Literal["light", "dark"]
    version: str


class RowsAsked(BaseModel):
    """Which rows the grid wants."""

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


def taking(*kinds: Any) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Return a decorator: the callback refuses an argument that does not fit its type."""
    adapters = [TypeAdapter(kind) for kind in kinds]

    def decorated(callback: Callable[..., T]) -> Callable[..., T]:
        @functools.wraps(callback)
        def checked(*values: Any) -> T:
            for adapter, value in zip(adapters, values, strict=True):
                try:
                    adapter.validate_python(value)
                except ValidationError as error:
                    raise BadRequest(_sentence("a value of the page", error)) from None
            return callback(*values)

        return checked

    return decorated


def guard(dash: Dash) -> None:
    """Make an app refuse calls that its page never sends, without a traceback in the log."""

    @dash.server.before_request
    def check() -> None:
        if flask.request.path == CALL and flask.request.method == "POST":
            _check(dash)

    @dash.server.errorhandler(HTTPException)
    def refused(error: HTTPException) -> flask.Response:
        return _problem(error)

    @dash.server.errorhandler(DependencyException)
    @dash.server.errorhandler(InvalidResourceError)
    def unknown(_: Exception) -> flask.Response:
        return _problem(NotFound("there is no such file of the page"))


def _check(dash: Dash) -> None:
    if not flask.request.is_json:
        raise UnsupportedMediaType("a call of the page must be application/json")
    try:
        call = _Call.model_validate(flask.request.get_json())
    except ValidationError as error:
        raise BadRequest(_sentence("a call of the page", error)) from None
    except (BadRequest, RecursionError):
        raise BadRequest("a call of the page must be JSON that can be read") from None
    known: Mapping[str, Any] = dash.callback_map.get(call.output, {})
    if "callback" not in known:  # none, or one that runs in the browser
        raise BadRequest(f"the page calls nothing that makes {call.output[:_KNOWN]!r}")
    for kind, given in (("inputs", call.inputs), ("state", call.state)):
        wanted = [f"{part['id']}.{part['property']}" for part in known[kind]]
        if [f"{part.id}.{part.property}" for part in given] != wanted:
            raise BadRequest(f"{kind} must be {', '.join(wanted) or 'empty'}")
    several = isinstance(known["output"], Sequence)
    outputs = known["output"] if several else [known["output"]]
    given = call.outputs if several else [call.outputs]
    if not isinstance(given, list) or len(given) != len(outputs) or not all(map(_fits, outputs, given)):
        raise BadRequest(f"outputs must be those of {call.output[:_KNOWN]!r}")


def _fits(output: Any, given: Any) -> bool:
    name = output.component_id
    if isinstance(name, str):
        return not isinstance(given, list) and given.id == name and given.property == output.component_property
    # any number of components whose ids have these keys
    return isinstance(given, list) and all(
        isinstance(part.id, dict) and part.id.keys() == name.keys() for part in given
    )


def _sentence(what: str, error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    rule = first["msg"].replace("Input should", "must").partition(" or instance of ")[0]
    given = repr(first["input"])
    return f"{what}: {f'{place}: ' if place else ''}{rule}, got {given[:_KNOWN]}"


def _problem(error: HTTPException) -> flask.Response:
    status = error.code or 500
    body = {
        "type": "about:blank",
        "title": error.name,
        "status": status,
        "detail": error.description or error.name,
        "instance": flask.request.path,
    }
    made = error.get_response()
    answer = flask.Response(json.dumps(body), status, mimetype=MEDIA)
    if "Allow" in made.headers:
        answer.headers["Allow"] = made.headers["Allow"]
    return answer
