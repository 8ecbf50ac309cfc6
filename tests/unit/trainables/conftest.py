from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from trainables.datasets import load
from trainables.datasets.load import DATASETS
from trainables.models.registry import MODELS
from trainables.training import base


@pytest.fixture
def own_registries(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Models, data sets and sources that a test registers are gone after it."""
    for registry in (MODELS, DATASETS):
        monkeypatch.setattr(registry, "_items", dict(registry._items))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("sweeper_source_"):
            del sys.modules[name]
    load.forget()


@pytest.fixture
def no_bases(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, str], object]:
    """The bases that the process keeps in memory: none, for the length of a test."""
    memory: dict[tuple[str, str], object] = {}
    monkeypatch.setattr(base, "_BASES", memory)
    monkeypatch.setattr(base, "_TRUNKS", {})
    return memory
