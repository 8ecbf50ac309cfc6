"""Registries: mappings from names that users choose to objects."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from trainables.io.printable import show_value

T = TypeVar("T")


class UnknownName(KeyError):  # noqa: N818 - `raise UnknownName` reads well
    """A name is not registered; the message names similar ones."""

    def __str__(self) -> str:
        return str(self.args[0])


def unknown(kind: str, name: str, known: Iterable[str]) -> UnknownName:
    """Return the error for an unknown name; it lists similar known names, or all of them."""
    return UnknownName(f"unknown {kind} {name!r}; {_hint(name, known)}")


_SHORT = {
    "lr": "learning_rate", "bs": "batch_size", "wd": "weight_decay", "eta": "learning_rate", "mu": "momentum",
    "lambda": "weight_decay", "optim": "optimizer", "arch": "model", "data": "dataset",
}  # fmt: skip
"""Usual short names -> names here, for hints."""

_FEWEST_LETTERS = 3
"""Letters of a text that may hint at the names that contain it."""


def _hint(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if len(name) >= _FEWEST_LETTERS:  # a part of a name is nearer than another word of its length
        holding = sorted((n for n in names if name.lower() in n.lower()), key=len)
        near = list(dict.fromkeys([*(n for n in near if n in holding), *holding[:3], *near]))[:3]
    if (full := _SHORT.get(name.lower())) in names and full not in near:
        near = [str(full), *near]
    return f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names) or 'none'}"


def build_with(
    what: str,
    builder: Callable[..., T],
    arguments: Sequence[Any],
    options: Mapping[str, Any],
    given: Mapping[str, Any] | None = None,
) -> T:
    """Return what a builder makes of the options of a user.

    Args:
        what: Kind and name of the thing, for messages.
        builder: Function of the arguments and of named options.
        arguments: Its first arguments, which are no options.
        options: Values that the user gives.
        given: Further named arguments; an option of the same name replaces one.

    Raises:
        ValueError: An option is unknown or missing, or has another type.
    """
    parameters = list(inspect.signature(builder).parameters.values())[len(arguments) :]
    named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    settings = {**(given or {}), **options}
    for name, value in options.items():
        if name not in named and not takes_any:
            raise ValueError(f"{what} has no option {name!r}; {_hint(name, set(named) - set(given or ()))}")
        kind = named[name].annotation if name in named else ""
        word, optional, _ = getattr(kind, "__name__", str(kind)).partition(" | None")
        rule, holds = _TYPES.get(word, ("", _is_anything))
        if not holds(value) and not (optional and value is None):
            raise ValueError(f"option {name} of {what} must be {rule}, got {show_value(value)}")
    if missing := [n for n, p in named.items() if p.default is p.empty and n not in settings]:
        raise ValueError(f"{what} needs the option {missing[0]}")
    try:
        return builder(*arguments, **settings)
    except TypeError as error:
        # a builder may hand its options on
        found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if found and found[1] in options:
            raise ValueError(f"{what} has no option {found[1]!r}") from None
        raise ValueError(f"{what} does not take the options {dict(options)}: {error}") from None


def _is_anything(_: object) -> bool:
    return True


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_TYPES: Mapping[str, tuple[str, Callable[[Any], bool]]] = {
    "int": ("a whole number", lambda v: _is_number(v) and v == int(v)),
    "float": ("a number", _is_number),
    "bool": ("true or false", lambda v: isinstance(v, bool)),
    "str": ("text", lambda v: isinstance(v, str)),
}


@dataclass(frozen=True)
class Source:
    """A user's file in execution, and its registrations so far: (registry, name, item)."""

    name: str
    bound: list[tuple[Registry[Any], str, Any]] = field(default_factory=lambda: [])


SOURCE: ContextVar[Source | None] = ContextVar("source", default=None)
"""The user's file in execution; None for modules of this package."""


class Registry(Mapping[str, T], Generic[T]):
    """A read-only mapping from name to object, filled by a decorator.

    A user's file may replace names of another user's file, or of an earlier version of itself. Each trial activates the
    names of its file, see `trainables.pair.plugin.load_source`.

    Args:
        kind: Noun for the entries, in the singular, for messages.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._items: dict[str, T] = {}
        self._owners: dict[str, str] = {}  # name -> the user's file that bound it

    def add(self, name: str, item: T) -> T:
        """Bind `item` to `name` and return it.

        Raises:
            ValueError: A module of this package, or the same execution of a user's file, has bound `name` already.
        """
        source = SOURCE.get()
        if name in self._items and (source is None or self._owners.get(name) in (None, source.name)):
            raise ValueError(f"{self.kind} {name!r} is registered already; choose another name")
        self._items[name] = item
        if source is not None:
            self._owners[name] = source.name
            source.bound.append((self, name, item))
        return item

    def restore(self, name: str, item: T, source: Source) -> None:
        """Bind `name` again to the `item` of `source`."""
        self._items[name], self._owners[name] = item, source.name

    def withdraw(self, name: str, source: Source) -> None:
        """Unbind `name` if `source` bound it."""
        if self._owners.get(name) == source.name:
            self._items.pop(name, None)
            del self._owners[name]

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that binds the decorated object to `name`."""
        return lambda item: self.add(name, item)

    def describe(self, name: str) -> str:
        """Return one sentence on an entry: its `description` or the first line of its docstring.

        Raises:
            UnknownName: No such entry.
        """
        item = self[name]
        return getattr(item, "description", "") or (inspect.getdoc(item) or "").partition("\n")[0]

    def __getitem__(self, name: str) -> T:
        try:
            return self._items[name]
        except KeyError:
            raise unknown(self.kind, name, self._items) from None

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)
