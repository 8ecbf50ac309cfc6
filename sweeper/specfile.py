"""Sweep spec files: YAML in, values with the line that each stands on out; what is wrong is said in one line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from trainables.registry import unknown

from .parameter import Parameter


class SpecError(ValueError):
    """A sweep that cannot be run as asked: one clear line."""


_RULES = {
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float", "int_parsing_size"), "must be a whole number"),
    **dict.fromkeys(("float_parsing", "float_type", "finite_number"), "must be a finite number"),
    **dict.fromkeys(("dict_type", "model_type"), "must be a mapping"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "must be true or false"),
    "string_type": "must be text",
    "tuple_type": "must be a list",
}


# members of a union, in the path of an error
_UNION = ("int", "literal", "str", "PriorNoise")


def explain(error: ValidationError, model: type[BaseModel], lines: Mapping[str, int], where: str) -> str:
    """Return a validation error of `model` as one line, with the line of the file `where` that its key stands on."""
    texts: list[str] = []
    for item in error.errors():
        path = [str(p) for p in item["loc"] if not (isinstance(p, str) and ("[" in p or p in _UNION))]
        key = ".".join(path)
        if item["type"] == "extra_forbidden":
            text = str(unknown("key", path[-1], _fields_at(model, path)))
        else:
            message = _RULES.get(item["type"], re.sub(r"^Value error, |^Input should be ", "", item["msg"]))
            if item["type"] in ("greater_than", "greater_than_equal", "less_than", "less_than_equal", "literal_error"):
                message = "must be " + message
            given = "" if "got " in message or message.startswith("unknown ") else f", got {item['input']!r}"
            message = message if message.startswith("unknown ") else f"{key}: {message[0].lower()}{message[1:]}"
            text = message + given if item["type"] != "missing" else f"{key} is missing"
        line = next((lines[".".join(path[:n])] for n in range(len(path), 0, -1) if ".".join(path[:n]) in lines), None)
        place = f"{where}, line {line}: " if where and line else f"{where}: " if where else ""
        if place + text not in texts:
            texts.append(place + text)
    return texts[0]


def _lines(node: yaml.Node | None, path: str = "") -> Iterator[tuple[str, int]]:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            name = f"{path}.{key.value}" if path else str(key.value)
            if name in seen:
                raise SpecError(f"line {key.start_mark.line + 1}: the key {name} stands there twice")
            seen.add(name)
            yield name, key.start_mark.line + 1
            yield from _lines(value, name)


def parse_yaml(path: Path, text: str | None = None) -> tuple[dict[str, Any], dict[str, int]]:
    """Read a sweep spec file as it stands there: its values, and the line that each key (dotted) stands on.

    `text` is the file's content where it does not lie on this machine.

    Raises:
        SpecError: The file cannot be read, is not YAML or not a mapping.
    """
    try:
        text = path.read_text() if text is None else text
        data = yaml.safe_load(text)
        lines = dict(_lines(yaml.compose(text, Loader=yaml.SafeLoader)))
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    except SpecError as error:
        raise SpecError(f"{path}, {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        raise SpecError(f"{path}{line}: not YAML: {getattr(error, 'problem', error)}") from None
    if data is None:
        raise SpecError(f"{path} is empty; it must name a space, such as `space: digits_cnn`")
    if not isinstance(data, dict):
        raise SpecError(f"{path} must be a mapping of keys to values, got {type(data).__name__}")
    return data, lines


def read_yaml(path: Path, text: str | None = None) -> tuple[dict[str, Any], dict[str, int]]:
    """Read a sweep spec file that is run on this machine, by `parse_yaml`.

    A relative path of a space, data root, cache or prior's run folder counts from the file's folder.

    Raises:
        SpecError: The file cannot be read, is not YAML or not a mapping.
    """
    data, lines = parse_yaml(path, text)
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
    """Return the fields that stand beside an unknown key."""
    if len(path) == 1:
        return model.model_fields
    inner = model.model_fields[path[0]].annotation
    return (inner if isinstance(inner, type) and issubclass(inner, BaseModel) else Parameter).model_fields


def placed(text: str, groups: Mapping[str, Iterable[str]], lines: Mapping[str, int], where: str) -> str:
    """Return a message with the line of the key, under one of the `groups` of keys, that it names first."""
    found: list[tuple[int, int]] = []  # where the message names it, line
    for group, names in groups.items():
        for name in names:
            # base.steps stands there as the entry `steps` of `base`
            named = [m.start() for n in {name, *name.split(".")} if (m := re.search(rf"\b{re.escape(n)}\b", text))]
            if named and f"{group}.{name}" in lines:
                found.append((min(named), lines[f"{group}.{name}"]))
    return f"{where}, line {min(found)[1]}: {text}" if found else text


def assignments(texts: Iterable[str], flag: str = "--set") -> dict[str, Any]:
    """Read the `KEY=VALUE` of a flag; values are YAML, and 1e-3 is a number.

    Raises:
        SpecError: One is not of that form, or its value is not YAML.
    """
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not re.fullmatch(r"\w+(\.\w+)*", key.strip()):
            raise SpecError(f"{flag} needs KEY=VALUE, such as optimizer=adamw, got {text!r}")
        try:
            read = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise SpecError(f"{flag} {key}: not YAML: {getattr(error, 'problem', error)}: {value!r}") from None
        # YAML 1.1 reads 1e-3 as text
        found[key.strip()] = float(read) if isinstance(read, str) and re.fullmatch(r"[-+]?\d+e[-+]?\d+", read) else read
    return found
