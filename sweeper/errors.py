"""Errors that end a command with one line."""

from __future__ import annotations


class SpecError(ValueError):
    """A sweep that cannot be run as asked: one clear line."""


class StorageError(OSError):
    """Storage that a sweep could not read or write: one clear line."""


class AwayError(SpecError):
    """A store that a command which only reads cannot reach: one clear line."""
