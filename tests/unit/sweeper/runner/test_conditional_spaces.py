"""Conditional and categorical knobs through whole sweeps: every sampler, resume, noise, the grid, the file."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

import search_spaces
from sweeper import SpecError, SweepSpec
from sweeper.config.load import load_sweep
from sweeper.config.space import corners, load_space, noise_constants
from sweeper.runner.proposers.search import count_configurations
from sweeper.search.designs import grid
from sweeper.search.samplers import SAMPLERS
from sweeper.storage.tables import read
from tests.support.inline_sweeps import digests, lose, sweep
from trainables.pair import synthetic
from trainables.runtime import Runtime
from trainables.spec import PairSpec

PARAMETERS: dict[str, Any] = {
    "optimizer": {"values": ["sgd", "sgdw"]},
    "momentum": {"values": [0.5, 0.9], "when": {"optimizer": "sgd"}},
    "augmentation": {"values": ["none", "shift"]},
    "augmentation_strength": {"min": 0.1, "max": 1.0, "when": {"augmentation": ["shift"]}},
}


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_every_sampler_searches_conditional_knobs_and_resumes(tmp_path: Path, sampler: str) -> None:
    more: dict[str, Any] = {"parameters": PARAMETERS, "sampler": sampler, "trials": 14}
    whole = sweep(tmp_path, **more)
    specs = [PairSpec.from_json(text) for text in whole.trials["spec"].to_pylist()]
    assert {s.optimizer for s in specs} == {"sgd", "sgdw"}
    for spec in specs:
        assert spec.momentum in ((0.5, 0.9) if spec.optimizer == "sgd" else (0.0,))
        assert (spec.augmentation_strength >= 0.1) == (spec.augmentation == "shift")
    for row in read(whole.run, "search").to_pylist():
        assert ("momentum" in json.loads(row["params"])) == (json.loads(row["params"])["optimizer"] == "sgd")
    lose(whole.run, 3, 13)
    again = sweep(tmp_path, **more)
    assert again.trials["number"].to_pylist() == list(range(14))
    if SAMPLERS[sampler].design is not None:
        assert digests(again) == digests(whole)


def test_a_condition_keeps_the_range_and_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    text = "space: digits_cnn\nparameters:\n  optimizer: {values: [sgd, sgdw]}\n  momentum: {when: {optimizer: sgd}}\n"
    path.write_text(text)
    spec = load_sweep(str(path)).spec
    space = load_space(spec)
    assert space.conditions == {"momentum": {"optimizer": ("sgd",)}}
    assert space.knobs["momentum"] == search_spaces.load("digits_cnn").knobs["momentum"]
    stored = tmp_path / "stored.yaml"
    stored.write_text(spec.to_yaml())
    assert load_sweep(str(stored)).spec.identity() == spec.identity()
    for old, new, message in [
        ("optimizer: sgd}", "optimizer: sdg}", "line 4: condition of momentum: optimizer must be one of sgd, sgdw"),
        ("  momentum", "  epochs", "line 4: parameters.epochs: give values, or both min and max: it is not a knob"),
        ("when: {optimizer: sgd}", "when: 3", "line 4: parameters.momentum.when: must be a mapping, got 3"),
    ]:
        path.write_text(text.replace(old, new))
        with pytest.raises(SpecError) as error:
            load_sweep(str(path))
        assert message in str(error.value)


def test_setting_the_other_knob_settles_the_condition(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text("space: digits_cnn\nparameters:\n  optimizer: {values: [sgd, sgdw]}\n"
                    "  momentum: {when: {optimizer: sgd}}\n")  # fmt: skip
    free = load_sweep(str(path), {"fixed": {"optimizer": "sgd"}}).space
    assert (dict(free.conditions), "momentum" in free.knobs) == ({}, True)
    gone = load_sweep(str(path), {"fixed": {"optimizer": "sgdw"}}).space
    assert "momentum" not in gone.knobs
    assert next(corners(gone)).momentum == 0.0


def test_corners_reach_every_end_of_a_conditional_knob() -> None:
    space = load_space(SweepSpec(space="synthetic", parameters=PARAMETERS))
    built = list(corners(space))
    assert {s.momentum for s in built} == {0.0, 0.5, 0.9}
    assert {s.augmentation_strength for s in built} == {0.0, 0.1, 1.0}
    assert {s.optimizer for s in built} == {"sgd", "sgdw"}


def test_noise_takes_the_default_of_a_knob_that_does_not_act(tmp_path: Path) -> None:
    space = load_space(SweepSpec(space="synthetic", parameters=PARAMETERS))
    constants = noise_constants(space, next(corners(space)), 720)
    assert constants == {"momentum": 0.0, "beta1": 0.9, "examples": 720}
    results = sweep(tmp_path, parameters=PARAMETERS, trials=8)
    for row in results.trials.to_pylist():
        noise = row["learning_rate"] / (row["batch_size"] * (1 - row["momentum"]))
        assert row["noise_paper"] == pytest.approx(noise)


def test_augmentation_that_does_not_act_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def probe_tables(specs: Sequence[PairSpec], runtime: Runtime) -> dict[str, dict[float, float]]:
        return {s.augmentation: {0.0: 1.0, 1.0: 4.0 if s.augmentation == "shift" else 1.0} for s in specs}

    monkeypatch.setattr(synthetic, "probe_tables", probe_tables, raising=False)
    results = sweep(tmp_path, parameters=PARAMETERS, noise="paper_aug", trials=10, sampler="noise")
    trials = {r["number"]: r for r in results.trials.to_pylist()}
    assert {r["augmentation"] for r in trials.values()} == {"none", "shift"}
    for row in read(tmp_path, "search").to_pylist():
        trial = trials[row["number"]]
        k_aug = 4.0 ** trial["augmentation_strength"] if trial["augmentation"] == "shift" else 1.0
        assert row["noise_target"] == pytest.approx(trial["noise_paper"] * k_aug, rel=1e-9)


def test_the_grid_holds_no_point_twice_and_uses_the_room() -> None:
    knobs = {
        "optimizer": CategoricalDistribution(("sgd", "sgdw")),
        "momentum": CategoricalDistribution((0.0, 0.5, 0.9)),
        "learning_rate": FloatDistribution(0.1, 1.0),
        "epochs": IntDistribution(1, 2),
    }
    conditions = {"momentum": {"optimizer": ("sgd",)}, "epochs": {"optimizer": ("sgdw",)}}
    points = grid(knobs, 30, conditions)
    keys = {tuple(p.items()) for p in points}
    # rates x (three momenta of sgd + two epochs of sgdw)
    assert len(points) == len(keys) == 6 * 5
    assert len(grid(knobs, 30)) < 30
    spec = SweepSpec(space="synthetic", sampler="grid", trials=40, parameters=PARAMETERS)
    space = load_space(spec)
    assert count_configurations(spec, space) == min(40, len(grid(space.knobs, 40, space.conditions)))


def test_optimizers_of_several_families_need_a_noise_for_all(tmp_path: Path) -> None:
    parameters: dict[str, Any] = {
        "optimizer": {"values": ["sgd", "adamw"]},
        "momentum": {"values": [0.5, 0.9], "when": {"optimizer": ["sgd"]}},
    }
    with pytest.raises(
        SpecError, match=r"no predicted noise is defined for .*: use --sampler tpe --noise critical_rat"
    ):
        sweep(tmp_path / "noise", sampler="noise", parameters=parameters)
    results = sweep(tmp_path / "tpe", sampler="tpe", parameters=parameters, trials=6)
    assert results.noise == "critical_ratio"
    assert set(results.trials["optimizer"].to_pylist()) == {"sgd", "adamw"}
    adams = {"optimizer": {"values": ["adam", "adamw"]}, "momentum": {"values": [0.0]}}
    assert sweep(tmp_path / "adams", sampler="noise", parameters=adams, trials=3).noise == "adam_sde"


def test_a_model_knob_is_a_base_of_its_own(tmp_path: Path) -> None:
    parameters: dict[str, Any] = {
        "model": {"values": ["small_cnn", "small_vit"]},
        "epochs": {"values": [1]},
        "learning_rate": {"min": 0.01, "max": 0.1},
    }
    fixed = {"base.steps": 5, "accuracy_floor": 0.0, "batch_size": 64, "model_options": {}}
    results = sweep(
        tmp_path, space="digits_cnn", sampler="noise", trials=3, parameters=parameters, fixed=fixed, measure=0
    )
    specs = [PairSpec.from_json(text) for text in results.trials["spec"].to_pylist()]
    assert {s.model for s in specs} == {"small_cnn", "small_vit"}
    assert len({s.base_digest for s in specs}) == 2
    assert set(results.trials["outcome"].to_pylist()) == {"ok"}
