"""YAML text: one reader and one writer, by the core schema of YAML 1.2.

`010` is 10, `0o10` is 8, `1e-3` is a number, `1:30` and `2026-01-01` are text. The reader refuses merge keys, tags of
types that JSON lacks, and the unquoted truth values of YAML 1.1 (`yes`, `no`, `on`, `off`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

_LIBYAML: type[yaml.SafeLoader] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # several times as fast
_CORE = "tag:yaml.org,2002:"
_STR, _SEQ, _MAP, _NULL, _BOOL, _INT, _FLOAT = (
    _CORE + name for name in ("str", "seq", "map", "null", "bool", "int", "float")
)
_AMBIGUOUS = "!yaml-1.1-bool"
"""Our tag of a plain `yes` or `off`, which YAML 1.1 and 1.2 read differently."""
_MERGE = _CORE + "merge"
_WORDS = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), _NULL),
    **dict.fromkeys(("true", "True", "TRUE", "false", "False", "FALSE"), _BOOL),
    "<<": _MERGE,
    **{form: _AMBIGUOUS for word in ("yes", "no", "on", "off") for form in (word, word.title(), word.upper())},
}
_WHOLE = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_NUMBER = re.compile(
    r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
)
_BREAKS = re.compile("[\r\x85\u2028\u2029\ufeff]")
_VERSION = "%YAML 1.2"
_SHOWN = 40


@dataclass(frozen=True)
class Bounds:
    """Largest size of one text.

    Attributes:
        values: Number of keys and values, with every alias expanded.
        depth: Number of nested lists and mappings.
    """

    values: int = 1_000_000
    depth: int = 50


FILE = Bounds()
"""Bounds of a user's file."""


class YamlError(ValueError):
    """A text cannot be read; the message is one sentence.

    Attributes:
        line: Line of the error; None if it has none.
        syntax: Whether the text is not YAML at all.
    """

    def __init__(self, sentence: str, line: int | None = None, syntax: bool = False) -> None:
        super().__init__(sentence)
        self.line, self.syntax = line, syntax


def read(text: str, bounds: Bounds = FILE, stored: bool = False) -> tuple[Any, dict[str, int]]:
    """Return the value of a YAML text, and the line of each dotted key; a list's item counts by its index.

    Args:
        text: One document.
        bounds: Largest size of the text.
        stored: Whether this package wrote the text. Earlier versions wrote text such as `1e-3` without quotes, as it is
            no number in YAML 1.1. Without the version directive of `write_stored` it stays text.

    Raises:
        YamlError: The text is not YAML, is too large, repeats a key, or holds what the reader refuses.
    """
    loader = _EarlierLoader if stored and not text.startswith(_VERSION) else _Loader
    try:
        node = loader(text, bounds).get_single_node()
    except UnicodeEncodeError:
        raise YamlError("not YAML: a character is incomplete", syntax=True) from None
    except yaml.reader.ReaderError as error:
        raise YamlError(f"not YAML: it holds the character U+{_code(error.character):04X}", syntax=True) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or "it cannot be read"
        raise YamlError(f"not YAML: {problem}", mark.line + 1 if mark else None, syntax=True) from None
    if node is None:
        return None, {}
    constructor = _Constructor(bounds)
    return constructor.construct(node, ""), constructor.lines


def write(value: Any) -> str:
    """Return a value as YAML that versions 1.1 and 1.2 read the same way."""
    return yaml.dump(value, Dumper=Writer, sort_keys=False, allow_unicode=True)


def write_stored(value: Any) -> str:
    """Return the YAML of `write`, with a directive that names the YAML version to `read`."""
    return f"{_VERSION}\n---\n{write(value)}"


def _code(character: Any) -> int:
    return character if isinstance(character, int) else ord(character)


# -- tags of plain scalars --------------------------------------------------------------------------------------------


def _tag(text: str) -> str:
    """Return the tag of a plain scalar."""
    if (word := _WORDS.get(text)) is not None:
        return word
    if text[0] not in "+-.0123456789":
        return _STR
    return _INT if _WHOLE.fullmatch(text) else _FLOAT if _NUMBER.fullmatch(text) else _STR


def _earlier_tag(text: str) -> str:
    """Return the tag of a plain scalar in YAML 1.1."""
    known = yaml.SafeLoader.yaml_implicit_resolvers.get(text[:1], ())
    return next((tag for tag, form in known if form.match(text)), _STR)


def with_numbers(value: Any) -> Any:
    """Return a value with numbers in place of text such as `1e-3`, which is a number in YAML 1.2 only."""
    if isinstance(value, dict):
        return {key: with_numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [with_numbers(item) for item in value]
    if isinstance(value, str) and _tag(value) in (_INT, _FLOAT) and _earlier_tag(value) == _STR:
        return float(int(value, 0) if value[:2] in ("0o", "0x") else value)
    return value


class _Loader(_LIBYAML):
    """Composes a bounded number of nodes to a bounded depth.

    libyaml recurses on the C stack. Counting the depth on the way keeps deep text from ending the process.
    """

    def __init__(self, text: str, bounds: Bounds) -> None:
        super().__init__(text)
        self._bounds, self._depth, self._count = bounds, 0, 0

    def descend_resolver(self, current_node: Any, current_index: Any) -> None:
        """Count a node before libyaml composes it."""
        self._depth += 1
        self._count += 1
        if self._depth > self._bounds.depth + 1:
            raise _too_deep(self._bounds, current_node)
        if self._count > self._bounds.values:
            raise _too_many(self._bounds, current_node)

    def ascend_resolver(self) -> None:
        """Leave the node."""
        self._depth -= 1

    def resolve(self, kind: Any, value: Any, implicit: Any) -> str:
        """Return the tag of a node without an explicit tag."""
        if kind is yaml.ScalarNode:
            return self.tag_of(value) if implicit[0] else _STR
        return _SEQ if kind is yaml.SequenceNode else _MAP

    def tag_of(self, text: str) -> str:
        """Return the tag of a plain scalar."""
        return _tag(text)


class _EarlierLoader(_Loader):
    """Reads files of earlier versions of this package, which followed YAML 1.1."""

    def tag_of(self, text: str) -> str:
        """Return the tag of a plain scalar; text that these versions left unquoted stays text."""
        tag = _tag(text)
        return _STR if tag in (_INT, _FLOAT) and _earlier_tag(text) == _STR else tag


# -- values -----------------------------------------------------------------------------------------------------------


@dataclass
class _Constructor:
    """Constructs values from nodes; every alias becomes a copy."""

    bounds: Bounds
    lines: dict[str, int] = field(default_factory=dict[str, int])
    _count: int = 0
    _open: set[int] = field(default_factory=set[int])

    def construct(self, node: yaml.Node, path: str) -> Any:
        self._count += 1
        if self._count > self.bounds.values:
            raise _too_many(self.bounds, node)
        if isinstance(node, yaml.ScalarNode):
            return _scalar(node)
        if node.tag != (_SEQ if isinstance(node, yaml.SequenceNode) else _MAP):
            raise _foreign(node)
        if id(node) in self._open:
            raise YamlError("an alias must not repeat a value that contains it", _line(node))
        if len(self._open) >= self.bounds.depth:
            raise _too_deep(self.bounds, node)
        self._open.add(id(node))
        try:
            if isinstance(node, yaml.MappingNode):
                return {key: self.construct(value, name) for key, name, value in self._entries(node, path)}
            return [self.construct(item, name) for name, item in self._items(node, path)]
        finally:
            self._open.remove(id(node))

    def _entries(self, node: yaml.MappingNode, path: str) -> Iterator[tuple[str, str, yaml.Node]]:
        seen: set[str] = set()
        for key, value in node.value:
            text, line = _key(key), _line(key)
            name = f"{path}.{text}" if path else text
            if text in seen:
                raise YamlError(f"the key {name} occurs twice; keep one", line)
            seen.add(text)
            self.lines[name] = line
            self._count += 1
            yield text, name, value

    def _items(self, node: yaml.Node, path: str) -> Iterator[tuple[str, yaml.Node]]:
        for i, item in enumerate(node.value):
            name = f"{path}.{i}" if path else str(i)
            if isinstance(item, yaml.MappingNode):
                self.lines[name] = _line(item)
            yield name, item


def _key(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise YamlError("keys must be text, got a list or mapping", _line(node))
    text = str(node.value)
    if node.tag == _MERGE:
        raise YamlError("merge keys (<<) are not supported: write the keys out", _line(node))
    if node.tag not in (_STR, _AMBIGUOUS):
        raise YamlError(f"keys must be text, got {_shown(text)}: quote it", _line(node))
    return text


def _scalar(node: yaml.ScalarNode) -> Any:
    text, tag = str(node.value), str(node.tag)
    if tag in (_STR, _MERGE):
        return text
    if tag == _AMBIGUOUS:
        raise YamlError(f"write true or false instead of {text}, or quote it if it is text", _line(node))
    if tag == _NULL and _WORDS.get(text) == _NULL:
        return None
    if tag == _BOOL and _WORDS.get(text) == _BOOL:
        return text.lower() == "true"
    whole = _WHOLE.fullmatch(text)
    if tag == _INT and whole:
        return _whole(text, node)
    if tag == _FLOAT and (whole or _NUMBER.fullmatch(text)):
        return _real(text, node)
    if tag in (_NULL, _BOOL, _INT, _FLOAT):
        raise YamlError(f"{_shown(text)} is not a valid {tag.removeprefix(_CORE)}", _line(node))
    raise _foreign(node)


def _whole(text: str, node: yaml.Node) -> int:
    base = {"0o": 8, "0x": 16}.get(text[:2], 10)
    number = int(text[2:] if base != 10 else text, base) if len(text) <= 64 else 1 << 64
    if abs(number) >= 1 << 63:
        raise YamlError(f"a whole number must be below 2**63, got {_shown(text)}: quote it if it is text", _line(node))
    return number


def _real(text: str, node: yaml.Node) -> float:
    word = text.lstrip("+-").lower()
    if word in (".inf", ".nan"):
        return float(text.replace(".", "", 1))
    number = float(_whole(text, node) if text[:2] in ("0o", "0x") else text)
    if math.isinf(number):
        raise YamlError(f"a number must be below 1.8e308, got {_shown(text)}: quote it if it is text", _line(node))
    return number


def _line(node: yaml.Node) -> int:
    return node.start_mark.line + 1


def _shown(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _too_deep(bounds: Bounds, node: yaml.Node) -> YamlError:
    return YamlError(f"the text must be nested at most {bounds.depth} levels deep", _line(node))


def _too_many(bounds: Bounds, node: yaml.Node) -> YamlError:
    return YamlError(f"the text must hold at most {bounds.values} values", _line(node))


def _foreign(node: yaml.Node) -> YamlError:
    tag = _shown(str(node.tag).replace(_CORE, "!!"))
    return YamlError(
        f"the tag {tag} is not supported: write text, numbers, true, false, lists and mappings", _line(node)
    )


# -- the writer -------------------------------------------------------------------------------------------------------


class Writer(yaml.SafeDumper):
    """Writes values that readers of YAML 1.1 and 1.2 read the same way, with quotes around ambiguous text.

    Attributes:
        blocks: Whether text of several lines becomes a literal block.
    """

    blocks = False

    def resolve(self, kind: Any, value: Any, implicit: Any) -> str:
        """Return the tag that a reader would give a node."""
        if kind is not yaml.ScalarNode or not implicit[0]:
            return super().resolve(kind, value, implicit)
        tag = _tag(value)
        return tag if tag != _STR else _earlier_tag(value)

    def ignore_aliases(self, data: Any) -> bool:
        """Return True, so that every repeated value is written in full."""
        return True


def _represent_text(writer: Writer, text: str) -> yaml.ScalarNode:
    # only double quotes escape the line breaks of YAML 1.1
    style = '"' if _BREAKS.search(text) else "|" if writer.blocks and "\n" in text else None
    return writer.represent_scalar(_STR, text, style)


Writer.add_representer(str, _represent_text)
