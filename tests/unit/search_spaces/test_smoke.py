"""One trial of every space's small variant: what a GPU would run for minutes runs here in seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from search_spaces import load, names
from sweeper.config.space import corner_params
from trainables.runtime import Runtime
from trainables.trial import run_trials

pytestmark = pytest.mark.ray  # trains, and the fast tier is to stay fast
SMALL = sorted(n for n in names() if load(n).smoke)


def data_of(name: str) -> set[str]:
    space = load(name).small()
    return {data for data, _ in space.build(next(corner_params(space))).tasks}


WITHOUT_DATA = [n for n in SMALL if data_of(n) <= {"digits", "sentences"}]


def trial(name: str, runtime: Runtime) -> None:
    space = load(name).small()
    # not the largest learning rate: it may diverge, and then nothing is merged
    params = {**next(corner_params(space)), "learning_rate": space.knobs["learning_rate"].low}  # type: ignore[attr-defined]
    params |= {"momentum": 0.9} if "momentum" in params else {}
    (output,) = run_trials([space.build(params)], runtime)
    result = output.result
    assert result.outcome in ("ok", "not_viable"), result.outcome_detail
    assert result.model == space.fixed["model"]
    assert set(result.dataset.split(" + ")) == data_of(name)
    assert result.scores["merged_loss_val"] is not None
    assert {"linear"} <= {m.method for m in output.merges}
    assert result.noises["adam_sde" if result.optimizer == "adamw" else "paper"] is not None


@pytest.mark.parametrize("name", WITHOUT_DATA)
def test_a_small_variant_runs(name: str) -> None:
    trial(name, Runtime(measure=0))


@pytest.mark.data
@pytest.mark.parametrize("name", [n for n in SMALL if n not in WITHOUT_DATA])
def test_a_small_variant_on_real_data_runs(name: str, data_root: str, tmp_path: Path) -> None:
    trial(name, Runtime(data_root=data_root, cache=str(tmp_path), measure=0))


def test_most_small_variants_need_no_data() -> None:
    small = {"cifar100_vit", "imagefolder_timm", "shakespeare_gpt", "text_lora", "tinystories_gpt"}
    assert small <= set(WITHOUT_DATA)
