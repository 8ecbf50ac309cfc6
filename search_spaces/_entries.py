"""Entries of a trial's mapping fields by names with dots, such as `optimizer_options.eps`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any, cast


def as_mapping(value: object) -> dict[str, Any]:
    """Return the entries of a field: a mapping, or the base's spec.

    Raises:
        ValueError: The field has no entries.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if not isinstance(value, Mapping):
        raise ValueError(f"the field must then be a mapping, got {value!r}")
    return dict(cast(Mapping[str, Any], value))


def read_entry(value: object, name: str) -> Any:
    """Return an entry of the object's field.

    Raises:
        KeyError: The field lacks the entry.
    """
    head, *path = name.split(".")
    found = getattr(value, head)
    for key in path:
        found = as_mapping(found)[key]
    return found


def find_entry(fields: Mapping[str, Any], name: str) -> Any:
    """Return a field, or an entry of a field, of a mapping of fields; None if it lacks it."""
    found: Any = fields
    for key in name.split("."):
        found = cast(Mapping[str, Any], found).get(key) if isinstance(found, Mapping) else None
    return found


def has_entry(fields: Mapping[str, Any], name: str) -> bool:
    """Return whether a mapping of fields has the field, or the entry, of this name."""
    found: Any = fields
    for key in name.split("."):
        try:
            found = as_mapping(found)[key]
        except (KeyError, ValueError):
            return False
    return True


def with_entry(fields: Mapping[str, Any], name: str, value: Any) -> dict[str, Any]:
    """Return the fields with another value of one field, or of one entry of a field.

    Raises:
        ValueError: The name has a dot, and the field is no mapping.
    """
    head, _, rest = name.partition(".")
    if not rest:
        return {**fields, head: value}
    try:
        inner = as_mapping(fields.get(head, {}))
    except ValueError as error:
        raise ValueError(f"{name} sets an entry, but {error}") from None
    return {**fields, head: with_entry(inner, rest, value)}


def without_entry(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the fields without a field, or without one entry of a field."""
    if not has_entry(fields, name):
        return dict(fields)
    head, _, rest = name.partition(".")
    if not rest:
        return {k: v for k, v in fields.items() if k != head}
    return {**fields, head: without_entry(as_mapping(fields[head]), rest)}


def is_part_of(name: str, other: str) -> bool:
    """Return whether a name is the other one, or an entry within it."""
    return name == other or name.startswith(f"{other}.")
