"""Sweep files: YAML as values and their lines, and error messages of one line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from sweeper.config.fields import Parameter
from sweeper.config.yaml_text import FILE, Bounds, YamlError, read
from sweeper.errors import SpecError
from trainables.io.printable import show_value
from trainables.registry import unknown


class NotYamlError(SpecError):
    """A text is not YAML."""


_RULES = {
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float", "int_parsing_size"), "must be a whole number"),
    **dict.fromkeys(("float_parsing", "float_type", "finite_number"), "must be a finite number"),
    **dict.fromkeys(("dict_type", "model_type"), "must be a mapping"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "must be true or false"),
    "string_type": "must be text",
    "tuple_type": "must be a list",
}


# names of the members of a union in the path of pydantic's errors
_UNION = ("int", "literal", "str", "PriorNoise")
_SHOWN = 200


def explain(error: ValidationError, model: type[BaseModel], lines: Mapping[str, int], where: str) -> str:
    """Return a validation error of `model` as one line, which names the file `where` and the key's line in it."""
    item = error.errors(include_url=False)[0]
    path = [str(p) for p in item["loc"] if not (isinstance(p, str) and ("[" in p or p in _UNION))]
    key = ".".join(path)
    if item["type"] == "extra_forbidden":
        text = str(unknown("key", path[-1], _fields_at(model, path)))
    elif item["type"] == "missing":
        text = f"{key} is missing"
    else:
        message = _RULES.get(item["type"], re.sub(r"^Value error, |^Input should be ", "", item["msg"]))
        if item["type"] in ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "literal_error"):
            message = "must be " + message
        # a rule on several keys names them itself
        complete = not key or message.startswith("unknown ")
        given = "" if complete or "got " in message else f", got {_shown(item['input'])}"
        message = message if complete else f"{key}: {message[0].lower()}{message[1:]}"
        text = message + given
    line = next((lines[".".join(path[:n])] for n in range(len(path), 0, -1) if ".".join(path[:n]) in lines), None)
    return f"{where}, line {line}: {text}" if where and line else f"{where}: {text}" if where else text


def _shown(value: Any) -> str:
    text = show_value(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def parse_yaml(
    path: Path, text: str | None = None, bounds: Bounds = FILE, stored: bool = False
) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the values of a sweep file as they are, and the line of each dotted key.

    Args:
        path: The file; only for messages if `text` is given.
        text: Content of a file that is not on this machine.
        bounds: Largest size of the content.
        stored: Whether this package wrote the file; see `yaml_text.read`.

    Raises:
        SpecError: The file cannot be read, is not YAML (`NotYamlError`), or is not a mapping.
    """
    data, lines = read_values(path, text, bounds, stored)
    if data is None:
        raise SpecError(f"{path} is empty; it must name a space, such as `space: digits_cnn`")
    if not isinstance(data, dict):
        raise SpecError(f"{path} must be a mapping of keys to values, got {type(data).__name__}")
    return data, lines


def read_values(
    path: Path, text: str | None = None, bounds: Bounds = FILE, stored: bool = False
) -> tuple[Any, dict[str, int]]:
    """Return the value of any YAML file, and the line of each dotted key; see `parse_yaml`.

    Raises:
        SpecError: The file cannot be read, or is not YAML (`NotYamlError`).
    """
    try:
        return read(path.read_bytes().decode() if text is None else text, bounds, stored)
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    except YamlError as error:
        line = f", line {error.line}" if error.line else ""
        raise (NotYamlError if error.syntax else SpecError)(f"{path}{line}: {error}") from None


def read_yaml(
    path: Path, text: str | None = None, bounds: Bounds = FILE, stored: bool = False
) -> tuple[dict[str, Any], dict[str, int]]:
    """Return the result of `parse_yaml` for a sweep that runs on this machine, with resolved paths.

    A relative path of a space file, data root, cache or prior's run folder starts at the file's folder.

    Raises:
        SpecError: The file cannot be read, is not YAML, or is not a mapping.
    """
    data, lines = parse_yaml(path, text, bounds, stored)
    for key in ("space", "data", "cache"):
        value = data.get(key)
        if isinstance(value, str) and (key != "space" or value.endswith(".py")):
            data[key] = os.path.normpath(path.parent / Path(value).expanduser())
    if isinstance(data.get("prior"), list):
        folders = [p if isinstance(p, str) and "://" not in p else None for p in data["prior"]]
        resolved = [f and os.path.normpath(path.parent / Path(f).expanduser()) for f in folders]
        data["prior"] = [f or p for f, p in zip(resolved, data["prior"], strict=True)]
    return data, lines


def _fields_at(model: type[BaseModel], path: list[str]) -> Mapping[str, Any]:
    """Return the fields of the model that an unknown key is in."""
    if len(path) == 1:
        return model.model_fields
    inner = model.model_fields[path[0]].annotation
    return (inner if isinstance(inner, type) and issubclass(inner, BaseModel) else Parameter).model_fields


def locate(text: str, groups: Mapping[str, Iterable[str]], lines: Mapping[str, int], where: str) -> str:
    """Return a message with the line of the first key that it names, of the keys in `groups`."""
    places: list[tuple[int, int]] = []  # position in the message, line
    for group, names in groups.items():
        for name in names:
            # a message may name base.steps as the entry `steps` of `base`
            starts = [m.start() for n in {name, *name.split(".")} if (m := re.search(rf"\b{re.escape(n)}\b", text))]
            if starts and f"{group}.{name}" in lines:
                places.append((min(starts), lines[f"{group}.{name}"]))
    return f"{where}, line {min(places)[1]}: {text}" if places else text


def parse_assignments(texts: Iterable[str], flag: str = "--set") -> dict[str, Any]:
    """Return the keys and values of a flag's `KEY=VALUE`; values are YAML.

    Raises:
        SpecError: A text has another form, or its value is not YAML.
    """
    values: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not re.fullmatch(r"\w+(\.\w+)*", key.strip()):
            raise SpecError(f"{flag} needs KEY=VALUE, such as optimizer=adamw, got {text!r}")
        try:
            values[key.strip()] = read(value)[0]
        except YamlError as error:
            raise SpecError(f"{flag} {key}: {error}, got {value!r}") from None
    return values
