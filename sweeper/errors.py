"""Errors that end a command with one clear line."""

from __future__ import annotations


class SpecError(ValueError):
    """A sweep cannot run as specified."""


class StorageError(OSError):
    """A sweep cannot read or write its storage."""


class AwayError(SpecError):
    """A read-only command cannot reach a store."""
