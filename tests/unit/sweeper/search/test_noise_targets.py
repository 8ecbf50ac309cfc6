"""Which noise a sweep targets: usual ones by optimizer, what is refused, and augmentation probed before the search."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import sweeper
from sweeper import SpecError, SweepSpec
from sweeper.cli.main import main
from sweeper.search.noise_targets import check_defined, check_shown, default_noise, list_targets
from sweeper.storage.tables import read
from trainables.noise import FAMILIES, NOISE
from trainables.pair import synthetic
from trainables.runtime import Runtime
from trainables.spec import PairSpec
from trainables.training.legs import child_leg


def sweep(run: Path, **more: Any) -> sweeper.Results:
    return sweeper.run(SweepSpec(out=str(run), **{"space": "synthetic", "runner": "inline", "trials": 3, **more}))


def test_the_usual_noise_of_an_optimizer_is_one_that_a_search_can_target() -> None:
    for family in FAMILIES:
        usual = default_noise(family)
        assert NOISE[usual].kind == "predicted"
        assert family == "other" or family in NOISE[usual].families
    assert list_targets(["sgd"])[0] == "paper"
    assert list_targets(["adamw", "adam"]) == ("adam_sde",)
    assert list_targets(["other"]) == ()


def test_a_sweep_with_adamw_targets_adam_sde_unless_told_otherwise(tmp_path: Path) -> None:
    fixed = {"optimizer": "adamw", "momentum": 0.0}
    results = sweep(tmp_path / "usual", fixed=fixed)
    assert results.noise == "adam_sde"
    assert sweeper.load_results(tmp_path / "usual").noise == "adam_sde"
    row = read(results.run, "search").to_pylist()[0]
    trial = next(r for r in results.trials.to_pylist() if r["number"] == row["number"])
    assert row["noise_target"] == pytest.approx(trial["learning_rate"] / math.sqrt(trial["batch_size"]))
    assert sweep(tmp_path / "asked", fixed=fixed, noise="adamw_tau").noise == "adamw_tau"
    with pytest.raises(SpecError, match="noise 'paper' is not defined for optimizer 'adamw'; use adam_sde or adamw_an"):
        sweep(tmp_path / "run", fixed=fixed, noise="paper")
    with pytest.raises(SpecError, match="noise 'adam_sde' is not defined for optimizer 'sgd'; use paper or"):
        sweep(tmp_path / "run", noise="adam_sde")
    assert not (tmp_path / "run").exists()


def test_an_optimizer_without_a_predicted_noise_names_the_way_out(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="'lion'; no predicted noise is defined for lion: use --sampler tpe"):
        sweep(tmp_path / "run", fixed={"optimizer": "lion"})
    fixed = {"optimizer": "lion", "momentum": 0.0}
    results = sweep(tmp_path / "run", fixed=fixed, sampler="tpe", noise="critical_ratio")
    assert results.trials.num_rows == 3
    with pytest.raises(ValueError, match="'adamw'; no predicted noise is defined for sgd, adamw"):
        check_defined("paper", {"sgd": "sgd", "adamw": "adamw"})


def test_measured_noises_are_shown_but_not_searched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SpecError, match="noise 'paper_full' is measured during training, so a search cannot target it"):
        sweep(tmp_path / "run", noise="paper_full")
    sweep(tmp_path / "run", trials=8, sampler="random")
    for command in ("status", "list", "best"):
        assert main([command, str(tmp_path / "run"), "--noise", "paper_full"]) == 0
    capsys.readouterr()
    # settings need no formula, learning rates at the best noise do
    assert main(["recommend", str(tmp_path / "run"), "--noise", "paper_full", "--by-noise"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "noise 'paper_full' is measured, so no formula gives its hyperparameters before training" in said
    for noise, words in (
        ("fitted", "noise 'fitted' has no column"),
        ("papr", "unknown noise 'papr'; did you mean paper"),
    ):
        assert main(["recommend", str(tmp_path / "run"), "--noise", noise]) == 2
        assert words in capsys.readouterr().err
    with pytest.raises(ValueError, match="has no column"):
        check_shown("fitted")


def test_augmentation_is_probed_once_before_the_search_and_aimed_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[tuple[list[str], Runtime]] = []

    def probe_tables(specs: Sequence[PairSpec], runtime: Runtime) -> dict[str, dict[float, float]]:
        asked.append(([s.augmentation for s in specs], runtime))
        return {s.augmentation: {0.0: 1.0, 1.0: 1.34 if s.augmentation == "shift" else 2.0} for s in specs}

    with pytest.raises(SpecError, match="noise 'paper_aug' needs a probe of gradients, and space 'synthetic' trains"):
        sweep(tmp_path / "none", noise="paper_aug")
    monkeypatch.setattr(synthetic, "probe_tables", probe_tables, raising=False)
    run = tmp_path / "run"
    path = tmp_path / "spec.yaml"
    path.write_text("space: synthetic\nrunner: inline\nparameters: {augmentation: {values: [shift, mixup]}}\n")
    assert main(["run", str(path), "--trials", "12", "--noise", "paper_aug", "--out", str(run)]) == 0
    captured = capsys.readouterr()
    for policy, factor in (("shift", "1.34"), ("mixup", "2.00")):
        line = f"augmentation {policy} at strength 1.0 multiplies the noise by {factor}\n"
        assert captured.err.count(line) == 1
    assert [policies for policies, _ in asked] == [["shift", "mixup"]]
    assert asked[0][1].bases == str(run / "bases")
    trials = {r["number"]: r for r in sweeper.load_results(run).trials.to_pylist()}
    for row in read(run, "search").to_pylist():
        trial = trials[row["number"]]
        top = {"shift": 1.34, "mixup": 2.0}[trial["augmentation"]]
        k_aug = top ** trial["augmentation_strength"]
        assert row["noise_target"] == pytest.approx(trial["noise_paper"] * k_aug, rel=1e-9)


COURSES: dict[str, dict[str, Any]] = {
    "by the learning rate": {"noise_schedule": {"kind": "cosine", "start": 1}},
    "by the batch size": {"noise_schedule": {"kind": "linear", "start": 1, "by": "batch_size"}},
    "a servo along a course": {"noise_schedule": {"kind": "linear", "start": 1}, "servo": {"every": 16}},
    "unequal children": {"noise_schedule": {"kind": "linear", "start": 1}, "child_b": {"batch_size": 16}},
}


@pytest.mark.parametrize("case", COURSES)
def test_the_target_is_the_mean_noise_of_the_stable_phase(tmp_path: Path, case: str) -> None:
    knobs: dict[str, Any] = {"noise_schedule.end": {"min": 0.25, "max": 4, "distribution": "log_uniform"}}
    if "child_b" in COURSES[case]:
        knobs["child_b.learning_rate"] = {"min": 0.01, "max": 0.2, "distribution": "log_uniform"}
    results = sweep(tmp_path / "run", trials=16, fixed={**COURSES[case], "epochs": 8}, parameters=knobs)
    targets = {row["number"]: row["noise_target"] for row in read(results.run, "search").to_pylist()}
    seen, ends = 0, set()
    for row in results.trials.to_pylist():
        spec, examples = PairSpec.from_json(row["spec"]), 5000
        child, *_ = spec.child_specs()  # the noise of the pair is that of child A
        leg = child_leg(child, examples)
        sizes = [leg.size(t, child.batch_size) for t in leg.stable]
        # noise of every step, averaged over the examples, with the servo at rest
        noises = [leg.rate(t) / b / (1 - child.momentum) for t, b in zip(leg.stable, sizes, strict=True)]
        mean = math.fsum(n * b for n, b in zip(noises, sizes, strict=True)) / sum(sizes)
        assert mean == pytest.approx(row["noise_paper"], rel=1e-9)
        if (target := targets.get(row["number"])) is not None:
            assert mean == pytest.approx(target, rel=1e-6)
            seen += 1
        ends.add(spec.noise_schedule["end"])
    assert seen >= 4
    assert len(ends) > 4  # the rest of the course is an ordinary knob
