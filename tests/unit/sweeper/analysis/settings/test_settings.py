"""Settings as text: each format is read back by what it is written for."""

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import SGD, AdamW

import sweeper
from sweeper import SweepSpec
from sweeper.analysis.settings.advice import advise_settings
from sweeper.analysis.settings.settings import (
    Confirmation,
    Estimate,
    Settings,
    format_estimate,
    format_settings,
    render,
    to_python,
    to_torch,
    to_yaml,
)
from sweeper.cli.main import main
from sweeper.config.load import load_sweep
from sweeper.config.prepared import prepare
from trainables.spec import PairSpec
from trainables.training.legs import child_leg
from trainables.training.schedules import wsd

PARAMS = {"learning_rate": 0.02, "batch_size": 64, "momentum": 0.9, "weight_decay": 1e-4, "augmentation_strength": 0.5}
SCORES = {"merged_loss": Estimate(0.3, 0.004), "gain_mean": Estimate(0.05, 0.006)}


def made(**more: Any) -> Settings:
    params = more.pop("params", PARAMS)
    spec = PairSpec("digits", "small_cnn", **{"augmentation": "shift", **params, **more.pop("spec", {})})
    values: dict[str, Any] = {
        "params": params, "fixed": ("batch_size",), "objective": "merged_loss", "split": "val",
        "predicted": SCORES["merged_loss"], "scores": SCORES, "noise": 0.003125, "noise_name": "paper",
        "learning_rate_low": 0.01, "learning_rate_high": 0.03, "step": 0.2, "stability_limit": None, "spec": spec,
        "sweep": SweepSpec.checked({"space": "synthetic", "fixed": {"epochs": 3}}),
    }  # fmt: skip
    return Settings(**{**values, **more})


def test_the_table_names_every_knob_with_its_symbol_and_every_promise() -> None:
    text = format_settings([made(confirmed=Confirmation(4, {"merged_loss": Estimate(0.31, 0.005)}))])
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert lines == [
        "Use these settings (lowest predicted merged validation loss):",
        "learning rate η 0.02",
        "90 % interval 0.01 to 0.03",
        "batch size B 64 (given)",
        "momentum μ 0.9",
        "weight decay λ 0.0001",
        "augmentation strength 0.5",
        "noise η/(B(1−μ)) 0.00313",
        "predicted on validation",
        "merged loss [nat] 0.3 ± 0.004",
        "gain over the mean parent [nat] 0.05 ± 0.006",
        "confirmed on test by 4 pairs",
        "merged loss [nat] 0.31 ± 0.005",
        "Each ± is the standard error of a mean over pairs; a single pair scatters more.",
        "Trust the confirmed scores: predictions are of validation, where the best of many looks too good.",
    ]


def test_several_settings_stand_side_by_side_and_no_note_repeats() -> None:
    shared, own = "check it with a few trials", "a wider range may hold better settings"
    each = [made(params={**PARAMS, "batch_size": 2**i}, notes=(shared,)) for i in range(3, 8)]
    each[0] = replace(each[0], notes=(shared, own), outside_tried=("batch_size",))
    text = format_settings(each)
    assert max(map(len, text.splitlines())) <= 100
    assert [text.count(f"B = {2**i} ") + text.count(f"B = {2**i}\n") for i in range(3, 8)] == [1] * 5
    assert text.count(shared) == 1
    assert f"B = 8: {own}" in text
    assert "8 (given)*" in text
    assert "* outside the tried range" in text
    assert format_settings([]) == ""


def test_the_largest_gain_is_not_the_best_model() -> None:
    gain = format_settings([made(objective="gain_mean", predicted=SCORES["gain_mean"])])
    assert gain.startswith("Use these settings (largest predicted validation loss gain over the mean parent):")
    assert "--objective merged_loss" in gain
    assert "--objective" not in format_settings([made()])


def test_the_error_of_one_pair_is_unknown() -> None:
    assert format_estimate(Estimate(0.3, None)) == "0.3 (one pair)"
    assert format_estimate(Estimate(0.3, 0.00456)) == "0.3 ± 0.005"
    assert format_estimate(Estimate(120.0, 23.4)) == "120 ± 23.4"


def test_the_sweep_file_runs_these_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(to_yaml(made(notes=("keep it",))))
    assert "# keep it\n" in path.read_text()
    loaded = load_sweep(str(path))
    assert loaded.space.knobs == {}
    assert {k: loaded.space.fixed[k] for k in PARAMS} == PARAMS
    assert loaded.space.fixed["epochs"] == 3  # the sweep's own
    run = tmp_path / "run"
    assert main(["run", str(path), "--runner", "inline", "--out", str(run)]) == 0
    rows = sweeper.load_results(run).trials.to_pylist()
    assert len(rows) == 4
    assert len({row["digest"] for row in rows}) == 4
    assert all({k: row[k] for k in PARAMS} == PARAMS for row in rows)
    for command in ("status", "best", "list", "analyse"):
        assert main([command, str(run)]) == 0
    capsys.readouterr()
    assert main(["recommend", str(run)]) == 2
    assert "settings need 6 viable configurations, got 1" in capsys.readouterr().err


@pytest.mark.parametrize("sampler", ["noise", "qmc", "random", "grid", "tpe", "gp", "cmaes"])
def test_a_space_without_knobs_has_one_configuration(tmp_path: Path, sampler: str) -> None:
    spec = SweepSpec.checked({"space": "synthetic", "runner": "inline", "sampler": sampler, "trials": 5, "repeats": 2,
                              "fixed": PARAMS, "out": str(tmp_path / "run")})  # fmt: skip
    results = sweeper.run(spec)
    assert results.trials.num_rows == 2
    assert len(set(results.trials["config"].to_pylist())) == 1


def test_the_python_dict_is_read_back() -> None:
    module = ast.parse(to_python(made()))
    assert ast.literal_eval(module.body[-1].value) == PARAMS  # type: ignore[attr-defined]


def build(settings: Settings) -> tuple[Any, Any]:
    scope: dict[str, Any] = {"params": [torch.nn.Parameter(torch.zeros(2))], "steps": 20}
    exec(compile(to_torch(settings), "settings", "exec"), scope)  # the test runs what users paste
    return scope["optimizer"], scope["scheduler"]


STEERED = {**PARAMS, "noise_schedule.end": 3.0, "child_b.learning_rate": 0.05, "decay": 0.4}


def steered(**course: Any) -> Settings:
    """Settings with knobs that are entries of fields, whose other entries are fixed."""
    fixed = {"noise_schedule": {"kind": "cosine", "start": 2, **course}, "window": {"size": 2, "spacing": 3}}
    knobs = {name: {"min": 0.01, "max": 5.0} for name in ("noise_schedule.end", "child_b.learning_rate", "decay")}
    sweep = SweepSpec.checked({"space": "digits_label_noise", "fixed": fixed, "parameters": {**knobs, "decay": KEPT}})
    return replace(made(), params=STEERED, sweep=sweep, spec=prepare(sweep).space.build(STEERED))


KEPT = {"min": 0.0, "max": 0.5}


def test_entries_of_fields_survive_every_format(tmp_path: Path) -> None:
    settings = steered()
    spec = settings.spec
    assert spec.noise_schedule == {"kind": "cosine", "start": 2, "end": 3.0}
    assert spec.child_b == {"learning_rate": 0.05}
    path = tmp_path / "settings.yaml"
    path.write_text(to_yaml(settings))
    loaded = load_sweep(str(path))
    assert loaded.space.knobs == {}
    assert loaded.space.build({}) == spec
    params = ast.literal_eval(ast.parse(to_python(settings)).body[-1].value)  # type: ignore[attr-defined]
    assert params == STEERED
    again = SweepSpec.checked({"space": "digits_label_noise", "fixed": {**settings.sweep.fixed, **params}})
    assert prepare(again).space.build({}) == spec
    lines = [" ".join(line.split()) for line in format_settings([settings]).splitlines()]
    assert "noise_schedule.end 3" in lines
    assert "child_b.learning_rate 0.05" in lines
    assert lines[lines.index("noise η/(B(1−μ)) 0.00313") + 1] == "of child B 0.00781"


def test_the_torch_schedule_follows_the_course_of_the_noise() -> None:
    settings = steered()
    spec, text = settings.spec, to_torch(settings)
    optimizer, scheduler = build(settings)
    rates = [optimizer.param_groups[0]["lr"]]
    for _ in range(19):
        optimizer.step()
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    leg = child_leg(replace(spec, steps=20), 720)
    assert rates == pytest.approx([leg.rate(step) for step in range(20)], rel=1e-12)
    left = "This code leaves out child_b = {'learning_rate': 0.05}, window = {'size': 2, 'spacing': 3}."
    assert left in " ".join(text.replace("\n#  ", "").split())
    assert "# noise_schedule" not in text
    by_size = to_torch(steered(by="batch_size"))
    assert "leaves out noise_schedule = {'kind': 'cosine'" in by_size
    assert "LambdaLR(optimizer, factor)" in by_size


def test_the_torch_arguments_build_the_optimizer_and_its_schedule() -> None:
    text = to_torch(made(spec={"optimizer_options": {"nesterov": True}}))
    call = "torch.optim.SGD(params, lr=0.02, momentum=0.9, weight_decay=0.0001, nesterov=True)  # batch size 64"
    assert f"optimizer = {call}\n" in text
    assert "# augmentation shift at strength 0.5\n" in text
    optimizer, scheduler = build(made())
    assert isinstance(optimizer, SGD)
    rates = [optimizer.param_groups[0]["lr"]]
    for _ in range(19):
        optimizer.step()
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.02 * wsd(step, 20, 0.05, 0.2) for step in range(20)], rel=1e-12)
    assert "trainables" not in text


def test_other_optimizers() -> None:
    adamw = {k: v for k, v in PARAMS.items() if k != "momentum"}
    optimizer, _ = build(made(params=adamw, spec={"optimizer": "adamw", "beta2": 0.95}))
    assert isinstance(optimizer, AdamW)
    assert optimizer.defaults["betas"] == (0.9, 0.95)
    assert "momentum" not in to_torch(made(params=adamw, spec={"optimizer": "adamw"}))
    other, _ = build(made(params=PARAMS, spec={"optimizer": "sgdw"}))
    assert (type(other).__name__, other.defaults["lr"], other.defaults["momentum"]) == ("SGDW", 0.02, 0.9)


def test_a_knob_that_torch_has_no_argument_for_is_a_comment() -> None:
    assert "# accuracy_floor = 0.5\n" in to_torch(made(params={**PARAMS, "accuracy_floor": 0.5}))


@pytest.mark.parametrize("form", ["yaml", "python", "torch"])
def test_no_text_of_a_sweep_leaves_its_comment(form: str) -> None:
    evil = "a\nimport os; os.system('x')\u2028#"
    text = render(made(params={**PARAMS, "augmentation": evil}, notes=(evil,)), form)
    if form == "yaml":
        assert "\nimport" not in text
    else:
        imported = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Import) and n.names[0].name == "os"]
        assert imported == []


def test_advice_of_a_stored_sweep(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(tmp_path / "run")
    spec = SweepSpec(space="synthetic", runner="inline", sampler="qmc", objective="gain_mean", trials=24, out=run)
    results = sweeper.run(spec)
    one = results.recommend(batch_size=32, momentum=0.5)
    assert {k: one.params[k] for k in ("batch_size", "momentum")} == {"batch_size": 32, "momentum": 0.5}
    assert str(one).startswith("Use these settings (largest")
    both = advise_settings(spec, results.trials, batch_sizes=[32, 64], momentum=0.5)
    assert both.settings[0].params == one.params
    assert both.formats == {}
    # what the file promises can be run, from the command line alone
    args = ["recommend", run, "--batch-size", "32", "--momentum", "0.5", "--format"]
    assert main([*args, "yaml"]) == 0
    text = capsys.readouterr().out
    assert text == one.to_yaml()
    (tmp_path / "s.yaml").write_text(text)
    assert main(["run", str(tmp_path / "s.yaml"), "--runner", "inline", "--out", str(tmp_path / "again")]) == 0
    capsys.readouterr()
    assert main([*args, "torch"]) == 0
    assert capsys.readouterr().out == one.to_torch()
    assert main([*args, "yaml", "--batch-size", "16"]) == 2
    assert "--format yaml takes one batch size, got 2" in capsys.readouterr().err
    assert main([*args, "toml"]) == 2
    assert main(["recommend", run, "--batch-size", "721"]) == 2
    assert capsys.readouterr().err.endswith(
        "error: batch_size must be at most 720, the number of training examples, got 721\n"
    )
    # a batch size and a learning rate leave nothing to solve for the noise
    assert main(["recommend", run, "--batch-size", "32", "--learning-rate", "0.05"]) == 0
    assert "reach the best noise" not in capsys.readouterr().out
