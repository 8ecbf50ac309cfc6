"""Request bodies: specs as JSON or YAML of limited size, with values that a database can store."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweeper.config.yaml_source import NotYamlError, read_yaml
from sweeper.config.yaml_text import Bounds
from sweeper.errors import SpecError
from sweeper.service.policy.errors import RefusedError
from sweeper.service.policy.limits import Limits

NAME = "sweep.yaml"
"""File name that messages give a spec sent as YAML."""
JSON_TYPES = ("application/json",)
YAML_TYPES = ("application/yaml", "text/yaml", "application/x-yaml")


def media_type(header: str) -> str:
    """Return the media type of a Content-Type header, without parameters."""
    return header.partition(";")[0].strip().lower()


def parse_spec(body: bytes, media: str, limits: Limits) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the values of a spec, and key -> line if it is YAML.

    Args:
        body: The text.
        media: Its media type.
        limits: Bounds of its size.

    Raises:
        RefusedError: The body is neither JSON nor YAML (400, 415), or too large (413).
        SpecError: It is not a mapping, or holds values that no spec has.
    """
    if media not in JSON_TYPES + YAML_TYPES:
        raise RefusedError(415, f"a spec must be application/json or application/yaml, got {media[:80]!r}")
    largest = limits.spec if media in JSON_TYPES else limits.yaml
    if len(body) > largest:
        way_out = "" if media in JSON_TYPES else f"; JSON may have {limits.spec}"
        raise RefusedError(413, f"a spec as {media} must have at most {largest} bytes, got {len(body)}{way_out}")
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise RefusedError(400, f"the body must be UTF-8, got byte {body[error.start]:#x} at {error.start}") from None
    values, lines = (parse_json(text), {}) if media in JSON_TYPES else _parse_yaml(text, limits)
    if not isinstance(values, dict):
        raise SpecError(f"a spec must be a mapping of keys to values, got {type(values).__name__}")
    _check(values, limits)
    return values, lines


def parse_json(text: str) -> Any:
    """Return the value of a JSON text without repeated keys.

    Raises:
        RefusedError: The text is not JSON (400).
        SpecError: A key occurs twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise RefusedError(400, f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise RefusedError(400, "the JSON is nested too deeply") from None
    except SpecError:
        raise
    except ValueError as error:
        raise RefusedError(400, f"not JSON: {str(error).partition(';')[0]}") from None


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise SpecError(f"the key {key[:80]} occurs twice")
        values[key] = value
    return values


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _parse_yaml(text: str, limits: Limits) -> tuple[dict[str, Any], dict[str, int]]:
    try:
        return read_yaml(Path(NAME), text, Bounds(limits.values, limits.depth))
    except NotYamlError as error:
        raise RefusedError(400, str(error)) from None


def _check(values: Mapping[str, Any], limits: Limits) -> None:
    """Refuse values that JSON or the database cannot hold."""
    count, stack = 0, [("", values, 0)]
    while stack:
        key, value, depth = stack.pop()
        count += 1
        if depth > limits.depth:
            raise SpecError(f"a spec must be nested at most {limits.depth} levels deep")
        if count > limits.values:
            raise SpecError(f"a spec must hold at most {limits.values} values")
        if isinstance(value, dict):
            for name, item in value.items():
                if not isinstance(name, str):
                    raise SpecError(f"{key or 'the spec'}: keys must be text, got {name!r}")
                _check_text("a key", name)
                stack.append((f"{key}.{name}" if key else name, item, depth + 1))
        elif isinstance(value, list):
            stack += [(key, item, depth + 1) for item in value]
        elif isinstance(value, str):
            _check_text(key, value)
        elif isinstance(value, float) and not math.isfinite(value):
            raise SpecError(f"{key}: must be a finite number, got {value}")
        elif isinstance(value, int) and abs(value) >= 2**63:
            raise SpecError(f"{key}: must be a number below 2**63")
        elif not isinstance(value, bool | int | float | None):
            raise SpecError(f"{key}: must be text, a number, true, false, a list or a mapping, got {value!r}")


def _check_text(key: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SpecError(f"{key}: must be valid Unicode text, got {text[:80]!r}") from None
    if "\0" in text:
        raise SpecError(f"{key}: must be text without NUL characters, got {text[:80]!r}")
