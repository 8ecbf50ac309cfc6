from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import torch
from small_trials import digits_spec
from torch import Tensor, nn

from trainables import base
from trainables.base import base_weights, new_model
from trainables.datasets import Data, load
from trainables.runtime import Runtime
from trainables.spec import PairSpec
from trainables.training import train_base

SPEC = digits_spec()


@pytest.fixture
def data() -> Data:
    return load("digits", {}, Runtime(), torch.float32)


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Digests of the bases that were trained."""
    seen: list[str] = []

    def counted(spec: PairSpec, model: nn.Module, data: Data) -> dict[str, Tensor]:
        seen.append(spec.base_digest)
        time.sleep(0.2)  # long enough for a second worker to arrive
        return train_base(spec, model, data)

    monkeypatch.setattr(base, "train_base", counted)
    return seen


def _weights(data: Data, bases: Path | None, spec: PairSpec = SPEC) -> dict[str, Tensor]:
    model = new_model(spec, data, "cpu", torch.float32)
    return base_weights(spec, model, data, Runtime(bases=str(bases) if bases else None))


def _equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return sorted(a) == sorted(b) and all(torch.equal(a[k], b[k]) for k in a)


def test_memory_file_and_retraining_give_the_same_bits(
    data: Data, tmp_path: Path, trainings: list[str], no_bases: dict[tuple[str, ...], object]
) -> None:
    trained = _weights(data, None)
    remembered = _weights(data, None)
    assert trainings == [SPEC.base_digest]
    no_bases.clear()
    written = _weights(data, tmp_path)
    assert len(trainings) == 2
    no_bases.clear()
    read = _weights(data, tmp_path)
    assert len(trainings) == 2  # from the file
    assert all(_equal(trained, other) for other in (remembered, written, read))
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{SPEC.base_digest}.lock", f"{SPEC.base_digest}.safetensors"]


def test_two_workers_train_a_shared_base_once(
    data: Data, tmp_path: Path, trainings: list[str], no_bases: dict[tuple[str, ...], object]
) -> None:
    found: list[dict[str, Tensor]] = []
    workers = [threading.Thread(target=lambda: found.append(_weights(data, tmp_path))) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=60)
    assert trainings == [SPEC.base_digest]
    assert _equal(*found)


@pytest.mark.usefixtures("no_bases")
def test_trials_share_a_base_across_hyperparameters_but_not_across_recipes(data: Data, trainings: list[str]) -> None:
    first = _weights(data, None)
    assert _weights(data, None, digits_spec(learning_rate=1.0, momentum=0.0, batch_size=8, seed=4)) is first
    other = _weights(data, None, digits_spec(base={"steps": 10, "seed": 1}))
    assert len(trainings) == 2
    assert not torch.equal(other["head.weight"], first["head.weight"])
    initial = new_model(SPEC, data, "cpu", torch.float32).state_dict()
    none = _weights(data, None, digits_spec(base={"steps": 0}))
    assert list(none) == list(initial)
    assert not _equal(none, first)


def test_memory_keeps_the_last_few_bases_only(data: Data, no_bases: dict[tuple[str, ...], object]) -> None:
    for seed in range(6):
        _weights(data, None, digits_spec(base={"steps": 0, "seed": seed}))
    last = [digits_spec(base={"steps": 0, "seed": seed}).base_digest for seed in (2, 3, 4, 5)]
    assert [key[0] for key in no_bases] == last


@pytest.mark.usefixtures("no_bases")
def test_a_failed_training_leaves_no_file_behind(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = digits_spec(base={"steps": 4, "learning_rate": 1e30})
    with pytest.raises(ValueError, match=r"the base diverged with learning_rate 1e\+30 in 4 steps; lower it"):
        _weights(data, tmp_path, spec)
    assert [p.suffix for p in tmp_path.iterdir()] == [".lock"]
