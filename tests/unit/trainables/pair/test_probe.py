"""The augmentation probe of a sweep, whose numbers every proposal rests on."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import pytest
import torch

import search_spaces
from trainables.pair.probe import probe_tables
from trainables.runtime import Runtime

KNOBS = {"learning_rate": 0.1, "batch_size": 32, "momentum": 0.5, "weight_decay": 1e-4, "augmentation_strength": 0.5}


@pytest.fixture
def threads() -> Generator[None]:
    """Restore the number of threads."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_the_probe_and_the_base_do_not_depend_on_the_threads_of_the_caller(tmp_path: Path) -> None:
    spec = search_spaces.load("digits_label_noise").build(KNOBS, seed=0)
    found = []
    for count in (1, 2):
        torch.set_num_threads(count)
        found.append(probe_tables([spec], Runtime(bases=str(tmp_path / str(count)))))
    assert found[0] == found[1]
    ((policy, table),) = found[0].items()
    assert policy == spec.augmentation
    assert table[1.0] > table[0.0] == 1.0
