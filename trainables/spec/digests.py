"""Digests that name trials, and the seeds of their random streams."""

from __future__ import annotations

import hashlib
import json
from dataclasses import MISSING, Field, fields
from typing import Any, cast


def digest_of(value: object) -> str:
    """Return 16 hex digits of SHA-256 over the canonical JSON of `value`."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def stream(digest: str, role: str) -> int:
    """Return the 63-bit seed of the generator for `role` in the trial `digest`."""
    return int.from_bytes(hashlib.sha256(f"{digest}/{role}".encode()).digest()[:8], "big") >> 1


def non_defaults(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass that differ from their default, so that a new field changes no digest."""
    out: dict[str, Any] = {}
    for f in fields(value):
        now, default = getattr(value, f.name), default_of(f)
        if default is MISSING or now != default:
            out[f.name] = list(cast(tuple[Any, ...], now)) if isinstance(now, tuple) else now
    return out


def default_of(f: Field[Any]) -> Any:
    """Return the default of a dataclass field, or `MISSING`."""
    return f.default_factory() if f.default_factory is not MISSING else f.default
