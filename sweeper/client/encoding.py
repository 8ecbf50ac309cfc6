"""Paths, parameters and bodies of the requests to a service."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import BaseModel

from sweeper.errors import SpecError

PAGE_TRIALS = 5000
YAML, JSON = "application/yaml", "application/json"


def at(sweep: str) -> str:
    """Return the path of a sweep."""
    return f"/v1/sweeps/{quote(sweep, safe='')}"


def query(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a request: without None, and with booleans in JSON's spelling."""
    return {k: str(v).lower() if isinstance(v, bool) else v for k, v in parameters.items() if v is not None}


def filters(
    where: Mapping[str, Any] | None, columns: Sequence[str] | None, outcome: str | None, config: str | None
) -> dict[str, Any]:
    """Return the query parameters of a page of trials."""
    return {
        "where": [f"{column}={value}" for column, value in (where or {}).items()],
        "columns": None if columns is None else ",".join(columns),
        "outcome": outcome,
        "config": config,
        "limit": PAGE_TRIALS,
    }


def body(spec: Any) -> tuple[bytes, str]:
    """Return a spec as the body of a request, and its media type."""
    if isinstance(spec, Path):
        try:
            return spec.read_bytes(), YAML
        except OSError as error:
            raise SpecError(f"cannot read {spec}: {error.strerror or error}") from None
    if isinstance(spec, str):
        if "\n" not in spec and spec.endswith((".yaml", ".yml")):
            raise SpecError(f"a text must be YAML, got the name of a file: use Path({spec!r})")
        return spec.encode(), YAML
    return plain_json(
        spec.model_dump(mode="json", exclude_unset=True) if isinstance(spec, BaseModel) else dict(spec)
    ), JSON


def plain_json(values: Mapping[str, Any]) -> bytes:
    """Return values as JSON.

    Raises:
        SpecError: JSON cannot hold a value.
    """
    try:
        return json.dumps(values, allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise SpecError(f"values must be JSON with finite numbers: {error}") from None
