from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.support.small_trials import digits_spec
from tests.support.waiting import PATIENCE
from trainables.models.registry import build
from trainables.models.seeding import seed_generators
from trainables.runtime import Runtime
from trainables.spec import PairSpec
from trainables.tasks.tasks import Task, add_models, load_tasks
from trainables.training import base
from trainables.training.base import Trunk, base_weights, train_base, trunk

SPEC = digits_spec()


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Digests of the bases that were trained."""
    seen: list[str] = []

    def counted(spec: PairSpec, *args: Any) -> list[dict[str, Tensor]]:
        seen.append(spec.base_digest)
        time.sleep(0.2)  # long enough for a second worker to arrive
        return train_base(spec, *args)

    monkeypatch.setattr(base, "train_base", counted)
    return seen


def _tasks(spec: PairSpec = SPEC) -> list[Task]:
    tasks = load_tasks(spec, Runtime())
    add_models(spec, tasks, Runtime())
    return tasks


def _weights(bases: Path | None, spec: PairSpec = SPEC) -> dict[str, Tensor]:
    return base_weights(spec, _tasks(spec), Runtime(bases=str(bases) if bases else None))[0]


def _equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return sorted(a) == sorted(b) and all(torch.equal(a[k], b[k]) for k in a)


def test_memory_file_and_retraining_give_the_same_bits(
    tmp_path: Path, trainings: list[str], no_bases: dict[tuple[str, ...], object]
) -> None:
    trained = _weights(None)
    remembered = _weights(None)
    assert trainings == [SPEC.base_digest]
    no_bases.clear()
    written = _weights(tmp_path)
    assert len(trainings) == 2
    no_bases.clear()
    read = _weights(tmp_path)
    assert len(trainings) == 2  # from the file
    assert all(_equal(trained, other) for other in (remembered, written, read))
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        f"{SPEC.base_digest}.safetensors",
        f"{SPEC.base_digest}.safetensors.lock",
    ]


def test_two_workers_train_a_shared_base_once(
    tmp_path: Path, trainings: list[str], no_bases: dict[tuple[str, ...], object]
) -> None:
    found: list[dict[str, Tensor]] = []
    workers = [threading.Thread(target=lambda: found.append(_weights(tmp_path))) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=PATIENCE)
    assert trainings == [SPEC.base_digest]
    assert _equal(*found)


@pytest.mark.usefixtures("no_bases")
def test_trials_share_a_base_across_hyperparameters_but_not_across_recipes(trainings: list[str]) -> None:
    first = _weights(None)
    assert _weights(None, digits_spec(learning_rate=1.0, momentum=0.0, batch_size=8, seed=4)) is first
    other = _weights(None, digits_spec(base={"steps": 10, "seed": 1}))
    assert len(trainings) == 2
    assert not torch.equal(other["head.weight"], first["head.weight"])
    initial = _tasks()[0].model.state_dict()
    none = _weights(None, digits_spec(base={"steps": 0}))
    assert list(none) == list(initial)
    assert not _equal(none, first)


@pytest.mark.usefixtures("no_bases")
@pytest.mark.parametrize("kept", [False, True])
def test_a_file_whose_content_changed_makes_another_base(kept: bool, tmp_path: Path) -> None:
    file, bases = tmp_path / "w.pt", tmp_path / "bases" if kept else None
    spec = replace(SPEC, weights=str(file), base=replace(SPEC.base, steps=0))
    for seed in (1, 2):
        with seed_generators(seed):
            state = build(SPEC.model, 10, 1, 8, SPEC.model_options).state_dict()
        torch.save(state, file)
        assert _equal(_weights(bases, spec), dict(state))


def test_memory_keeps_the_last_few_bases_only(no_bases: dict[tuple[str, ...], object]) -> None:
    for seed in range(6):
        _weights(None, digits_spec(base={"steps": 0, "seed": seed}))
    last = [digits_spec(base={"steps": 0, "seed": seed}).base_digest for seed in (2, 3, 4, 5)]
    assert [key[0] for key in no_bases] == last


@pytest.mark.usefixtures("no_bases")
def test_a_failed_training_leaves_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = digits_spec(base={"steps": 4, "learning_rate": 1e30})
    with pytest.raises(ValueError, match=r"the base diverged with learning_rate 1e\+30 in 4 steps; lower it"):
        _weights(tmp_path, spec)
    assert [p.suffix for p in tmp_path.iterdir()] == [".lock"]


# -- two tasks --------------------------------------------------------------------------------------------------------

TWO = digits_spec(
    pair_kind="two_task", dataset_b="digits", dataset_b_options={"split_seed": 1}, base={"steps": 5}, batch_size=64
)


@pytest.mark.usefixtures("no_bases")
def test_two_tasks_share_a_jointly_trained_backbone_and_own_their_heads(tmp_path: Path) -> None:
    a, b = base_weights(TWO, _tasks(TWO), Runtime())
    heads = {k for k in a if k.startswith("head.")}
    assert heads == {"head.weight", "head.bias"}
    assert all(torch.equal(a[k], b[k]) for k in a.keys() - heads)
    assert not torch.equal(a["head.weight"], b["head.weight"])
    fresh = _tasks(TWO)
    assert not torch.equal(fresh[0].model.state_dict()["head.weight"], a["head.weight"])
    base._BASES.clear()
    written = base_weights(TWO, _tasks(TWO), Runtime(bases=str(tmp_path)))
    assert _equal(written[0], a)
    assert _equal(written[1], b)


def test_tasks_of_other_image_shapes_are_refused() -> None:
    spec = replace(TWO, dataset_b_options={"size": 16})
    with pytest.raises(
        ValueError,
        match=r"tasks share a backbone and must have images of one shape.*\(1, 8, 8\).*\(1, 16, 16\)",
    ):
        load_tasks(spec, Runtime())


# -- trunks -----------------------------------------------------------------------------------------------------------

BRANCH = digits_spec(protocol="branch", branch_step=6, base={"steps": 0})


def _trunk(spec: PairSpec, bases: Path | None) -> Trunk:
    (task,) = _tasks(spec)
    runtime = Runtime(bases=str(bases) if bases else None)
    (task.base,) = base_weights(spec, [task], runtime)
    return trunk(spec, task, runtime)


@pytest.mark.usefixtures("no_bases")
def test_trials_that_differ_after_the_branch_share_a_trunk_in_memory_and_as_a_file(tmp_path: Path) -> None:
    first = _trunk(BRANCH, tmp_path)
    assert first.diverged_at is None
    assert first.state["state"]  # momentum continues
    later = replace(BRANCH, repeat=3, epochs=5, decay=0.5, merges=("linear",), schedule="cosine")
    assert _trunk(later, tmp_path) is first
    base._TRUNKS.clear()
    read = _trunk(later, tmp_path)
    assert read is not first
    assert _equal(read.weights, first.weights)
    for change in ({"learning_rate": 0.1}, {"seed": 1}, {"branch_step": 7}, {"augmentation_strength": 0.1}):
        assert replace(BRANCH, **change).trunk_digest != BRANCH.trunk_digest


@pytest.mark.usefixtures("no_bases")
def test_a_trunk_that_diverges_is_remembered_as_such(tmp_path: Path) -> None:
    spec = replace(BRANCH, learning_rate=1e8, branch_step=30)
    dated = _trunk(spec, tmp_path).diverged_at
    assert dated is not None
    base._TRUNKS.clear()
    assert _trunk(spec, tmp_path).diverged_at == dated
