"""Bad input of the fields that steer the noise: one line and exit code 2, before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeper.cli.main import main

SCRATCH = ("protocol=scratch",)
BAD: dict[str, tuple[tuple[str, ...], str]] = {
    "no kind": (("noise_schedule={start: 1, end: 2}",), "noise_schedule must have a kind (flat, linear, cosine, step)"),
    "unknown kind": (("noise_schedule={kind: liner}",), "unknown noise schedule 'liner'; did you mean linear"),
    "unknown entry": (("noise_schedule={kind: linear, ends: 2}",), "unknown entry of noise_schedule 'ends'"),
    "flat with an end": (
        ("noise_schedule={kind: flat, start: 1, end: 4}",),
        "noise_schedule.end must be left out with kind flat, which does not change, got 4",
    ),
    "end of 0": (("noise_schedule={kind: linear, end: 0}",), "noise_schedule.end must be > 0, got 0"),
    "turn above 1": (("noise_schedule={kind: step, turn: 1.5}",), "noise_schedule.turn must lie in [0, 1], got 1.5"),
    "turn at 0": (("noise_schedule={kind: step, end: 2, turn: 0}",), "noise_schedule.turn must lie in (0, 1)"),
    "turn at 1": (("noise_schedule={kind: step, end: 2, turn: 1}",), "since a step at an end is none, got 1"),
    "turn of a line": (
        ("noise_schedule={kind: linear, end: 2, turn: 0.3}",),
        "noise_schedule.turn must be left out unless kind is step, got 0.3 with linear",
    ),
    "by nothing known": (
        ("noise_schedule={kind: linear, by: momentum}",),
        "noise_schedule.by must be one of learning_rate, batch_size, got 'momentum'",
    ),
    "by batch size with AdamW": (
        ("noise_schedule={kind: linear, by: batch_size}", "optimizer=adamw", "momentum=0"),
        "noise_schedule.by must be learning_rate unless the optimizer is of the family of SGD",
    ),
    "a course without a stable phase": (
        ("noise_schedule={kind: linear, end: 2}", "schedule=cosine"),
        "schedule must be wsd or constant with a noise_schedule: it needs a stable phase, got 'cosine'",
    ),
    "servo without every": (("servo={limit: 2}",), "servo must have every, the steps between two measurements"),
    "servo at every 0th step": (("servo={every: 0}",), "servo.every must be whole and >= 8, got 0"),
    "servo with a limit of 1": (("servo={every: 16, limit: 1}",), "servo.limit must be > 1, got 1"),
    "servo with AdamW": (
        ("servo={every: 16}", "optimizer=adamw", "momentum=0"),
        "servo must be empty unless the optimizer is of the family of SGD",
    ),
    "window without a size": (("window={spacing: 2}",), "window must have a size, the number of checkpoints"),
    "window of another kind": (("window={size: 2, kind: median}",), "window.kind must be one of mean, ema"),
    "window longer than the training": (
        ("window={size: 4, spacing: 1000}",),
        "steps of a child, got 4 checkpoints every 1000 steps; lower window.size or window.spacing",
    ),
    "unknown field of child B": (
        ("child_b={momentum: 0.5}",), "unknown field of child_b 'momentum'; known: batch_size, learning_rate"
    ),
    "child B without a rate": (("child_b={learning_rate: 0}",), "child_b.learning_rate must be > 0, got 0"),
    "child B with half an example": (
        ("child_b={batch_size: 2.5}",), "child_b.batch_size must be > 0 and whole, got 2.5"
    ),
    "a batch of child B above the data": (("child_b={batch_size: 5000}",), "batch_size must be <= the 720 training"),
    "antithetic children with own settings": (
        ("pairing=antithetic", "child_b={learning_rate: 0.1}"), "child_b must be empty with pairing antithetic"
    ),
    "antithetic halves of two sets": (
        ("pairing=antithetic", "pair_kind=split_data"), "pair_kind must be same_task with pairing antithetic"
    ),
    "unknown pairing": (("pairing=mirrored",), "pairing must be one of independent, antithetic, got 'mirrored'"),
    "trunk without a branch": (
        ("trunk={learning_rate: 0.1}",), "trunk must be empty unless protocol is branch, got {'learning_rate': 0.1}"
    ),
    "matching without a map of the units": (
        (*SCRATCH, "model=resnet18", "merges=[linear, weight_matching]"),
        "weight matching needs a model with a permutation map, such as mlp, small_cnn or resnet18_32, got 'resnet18'",

    ),
    "a merge of the base from scratch": (
        (*SCRATCH, "merges=[linear, task_arithmetic]"), "merges must not use a base in protocol scratch"
    ),
    "unknown protocol": (("protocol=branches",), "protocol must be one of finetune, branch, scratch, got 'branches'"),
    "a branch without a trunk": (("protocol=branch",), "branch_step must be >= 1 in protocol branch, got 0"),
}  # fmt: skip


def _run(tmp_path: Path, *settings: str) -> int:
    words = [word for setting in settings for word in ("--set", setting)]
    fixed = ["--runner", "inline", "--trials", "1", "--sampler", "random", "--measure", "0"]
    return main(["run", "digits_label_noise", *fixed, "--out", str(tmp_path / "run"), *words])


@pytest.mark.parametrize("case", BAD)
def test_bad_steering_gets_one_sentence_before_anything_is_trained(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, message = BAD[case]
    assert _run(tmp_path, *settings) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


KNOBS: dict[str, tuple[str, str]] = {
    "an end of flat courses": (
        "{noise_schedule.kind: {values: [flat, linear]}, noise_schedule.end: {min: 0.5, max: 2}}",
        "let the knob act `when` the kind is another",
    ),
    "a turn to the very end": (
        "{noise_schedule.kind: {values: [step]}, noise_schedule.turn: {min: 0.2, max: 1}}",
        "noise_schedule.turn must lie in (0, 1)",
    ),
    "a knob of child B that is none": (
        "{child_b.momentum: {min: 0.1, max: 0.9}}", "unknown field of child_b 'momentum'"
    ),
    "a window beyond the training": ("{window.size: {min: 2, max: 100000}}", "lower window.size or window.spacing"),
}  # fmt: skip


@pytest.mark.parametrize("case", KNOBS)
def test_bad_knobs_of_steering_get_one_sentence(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    knobs, message = KNOBS[case]
    file = tmp_path / "sweep.yaml"
    file.write_text(f"space: digits_label_noise\nrunner: inline\ntrials: 1\nmeasure: 0\nparameters: {knobs}\n")
    assert main(["run", str(file), "--out", str(tmp_path / "run")]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "setting", ["noise_schedule={kind: flat, start: 4}", "pairing=antithetic", "window={size: 1, spacing: 1000}"]
)
def test_settings_that_change_nothing_bad_pass(setting: str, tmp_path: Path) -> None:
    # halves of a super-batch are whole batches, so that an odd batch size is fine
    assert _run(tmp_path, "batch_size=47", "epochs=1", "learning_rate=0.01", setting) == 0
