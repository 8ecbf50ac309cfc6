"""Registries: mappings from names that users choose to objects."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class UnknownName(KeyError):  # noqa: N818 - `raise UnknownName` reads well
    """A name is not registered; the message names similar ones."""

    def __str__(self) -> str:
        return str(self.args[0])


def unknown(kind: str, name: str, known: Iterable[str]) -> UnknownName:
    """Return the error for an unknown name; it lists similar known names, or all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}"
    return UnknownName(f"unknown {kind} {name!r}; {hint}")


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
