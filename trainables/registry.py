"""Registries: names that can be chosen on the command line, each bound to one object."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class UnknownName(KeyError):  # noqa: N818 - reads as what it says: raise UnknownName
    """A name that nothing is registered under; its text names the nearest known ones."""

    def __str__(self) -> str:
        return str(self.args[0])


def unknown(kind: str, name: str, known: Iterable[str]) -> UnknownName:
    """Build the error for a wrong name, with the nearest known names or all of them."""
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names)}"
    return UnknownName(f"unknown {kind} {name!r}; {hint}")


@dataclass(frozen=True)
class Source:
    """A user's file that is being executed, and what it has registered so far: (registry, name, item)."""

    name: str
    bound: list[tuple[Registry[Any], str, Any]] = field(default_factory=lambda: [])


SOURCE: ContextVar[Source | None] = ContextVar("source", default=None)
"""The user's file that is being executed; None where the caller is one of our own modules."""


class Registry(Mapping[str, T], Generic[T]):
    """A read-only mapping from name to object that is filled by a decorator.

    A name that a user's file has bound is bound anew by another user's file, or by the same one once it was edited;
    each trial makes its own file's names the current ones (`trainables.pair.plugin.load_source`).

    Args:
        kind: What the entries are, in the singular; used in messages.
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._items: dict[str, T] = {}
        self._owners: dict[str, str] = {}  # name -> the user's file that bound it

    def add(self, name: str, item: T) -> T:
        """Bind `item` to `name` and return it.

        Raises:
            ValueError: `name` is bound already: by one of our modules, or by the same run of a user's file.
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
        """Bind `name` again to what `source` had bound it to."""
        self._items[name], self._owners[name] = item, source.name

    def withdraw(self, name: str, source: Source) -> None:
        """Unbind `name` where `source` bound it."""
        if self._owners.get(name) == source.name:
            self._items.pop(name, None)
            del self._owners[name]

    def register(self, name: str) -> Callable[[T], T]:
        """Return the decorator that binds what it decorates to `name`."""
        return lambda item: self.add(name, item)

    def describe(self, name: str) -> str:
        """Return one sentence on an entry: its `description`, else the first line of its docstring.

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
