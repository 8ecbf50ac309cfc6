"""Sweep specs: YAML, flags and Python mean the same, and what is wrong is named."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from sweeper.config.load import load_sweep
from sweeper.config.space import load_space
from sweeper.config.spec import SweepSpec
from sweeper.config.yaml_source import parse_assignments
from sweeper.errors import SpecError


def wrong(tmp_path: Path, text: str, **flags: object) -> str:
    path = tmp_path / "spec.yaml"
    path.write_text(text)
    with pytest.raises(SpecError) as error:
        load_sweep(str(path), flags)
    return str(error.value).removeprefix(str(path)).lstrip(", ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("space: digits_cnn\ntrails: 4\n", "line 2: unknown key 'trails'; did you mean trials"),
        ("space: digits_cnn\ntrials: many\n", "line 2: trials: must be a whole number, got 'many'"),
        ("space: digits_cnn\ntrials: 0\n", "line 2: trials: must be greater than or equal to 1, got 0"),
        ("space: digits_cnn\nworkers: 0\n", "line 2: workers: must be >= 1 or auto, got 0"),
        ("space: digits_cnn\n\nsampler: noize\n", "line 3: unknown sampler 'noize'; did you mean noise?"),
        ("space: digits_cnn\nobjective: gain_men\n", "line 2: unknown objective 'gain_men'; did you mean gain_mean"),
        ("space: digits_cnn\nnoise: papr\n", "line 2: unknown noise 'papr'; did you mean paper"),
        (
            "space: digits_cnn\nparameters:\n  learning_rate: {min: 1, max: 0.1}\n",
            "line 3: parameters.learning_rate: min must be <= max, got min 1 and max 0.1",
        ),
        (
            "space: digits_cnn\nparameters:\n  learning_rate:\n    mim: 1\n",
            "line 4: unknown key 'mim'; did you mean min?",
        ),
        ("space: digits_cnn\nrunner: rey\n", "line 2: runner: must be 'ray' or 'inline', got 'rey'"),
        ("trials: 3\n", "space is missing"),
        ("", "is empty"),
        ("space: digits_cnn\nseed: 4294967296\n", "line 2: seed: must be less than 4294967296"),
        ("space: digits_cnn\nparameters:\n  momentum: {values: [0, 0.9, 0.0]}\n", "values must differ, got 0.0 twice"),
        ("space: digits_cnn\nparameters:\n  momentum: {min: 0, max: .inf}\n", "must be a finite number, got inf"),
        ("space: digits_cnn\ntrials: true\n", "line 2: trials: must be a whole number, got True"),
        ("space: digits_cnn\ntrials: 3\ntrials: 4\n", "line 3: the key trials occurs twice"),
        ("space: digits_cnn\nfixed:\n  epoks: 3\n", "line 3: unknown pair spec field 'epoks'; did you mean epochs"),
        ("space: digits_cnn\nfixed: {seed: 3}\n", "line 2: the sweep sets seed"),
        (
            "space: digits_cnn\nparameters:\n  learning_rate: {values: [fast]}\n",
            "line 3: parameters.learning_rate: values must be numbers, got 'fast'",
        ),
        ("space: digits_cnn\nmeasure: -1\n", "line 2: measure: must be greater than or equal to 0, got -1"),
        ("space: digits_cnn\nplane: 1\n", "line 2: plane: must be 0 (no plane) or at least 2 points a side, got 1"),
        ("space: digits_cnn\nresident_share: 2\n", "line 2: resident_share: must be less than or equal to 1, got 2"),
        ("space: digits_cnn\nlandscape: maybe\n", "line 2: landscape: must be true or false, got 'maybe'"),
        ("space: digits_cnn\nsmoke: true\n", "space 'digits_cnn' has no smoke variant"),
        (
            "space: digits_cnn\nfixed:\n  base.stepz: 3\n",
            "line 3: unknown base field 'stepz'; did you mean steps",
        ),
        (
            "space: digits_cnn\nfixed:\n  model.width: 3\n",
            "line 3: model.width sets an entry, but the field must then be a mapping, got 'small_cnn'",
        ),
        ("- a\n", "must be a mapping"),
        ("a: [\n", "line 2: not YAML"),
    ],
)
def test_wrong_yaml_names_line_and_way_out(tmp_path: Path, text: str, message: str) -> None:
    found = wrong(tmp_path, text)
    assert message in found
    assert "\n" not in found


def test_unknown_space_suggests_the_nearest() -> None:
    with pytest.raises(SpecError, match=r"unknown space 'digitscnn'; did you mean digits_cnn"):
        load_sweep("digitscnn")


def test_bounds_that_break_a_rule_of_the_trial_show_before_the_first_trial(tmp_path: Path) -> None:
    text = "space: digits_cnn\nparameters:\n  momentum: {min: 0, max: 1}\n"
    assert "momentum must lie in [0, 1), got 1.0" in wrong(tmp_path, text)
    assert "line 2: unknown pair spec field 'epoch'" in wrong(tmp_path, "space: digits_cnn\nfixed: {epoch: 3}\n")


def test_numbers_that_yaml_reads_as_text_and_whole_fields() -> None:
    parameters = {"learning_rate": {"values": ["1e-3", 0.01]}, "batch_size": {"min": 8, "max": 64}}
    space = load_space(SweepSpec(space="digits_cnn", parameters=parameters))  # type: ignore[arg-type]
    assert space.knobs["learning_rate"].choices == (1e-3, 1e-2)  # type: ignore[attr-defined]
    assert str(space.knobs["batch_size"]) == "IntDistribution(high=64, log=False, low=8, step=1)"


def test_flags_win_over_yaml_and_text_means_the_number(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text("space: digits_cnn\ntrials: 5\nsampler: random\n")
    spec = load_sweep(str(path), {"trials": "7", "workers": "2"}).spec
    assert (spec.trials, spec.sampler, spec.workers) == (7, "random", 2)
    assert spec == SweepSpec(space="digits_cnn", trials=7, sampler="random", workers=2)


def test_a_flag_error_names_no_line(tmp_path: Path) -> None:
    assert wrong(tmp_path, "space: digits_cnn\ntrials: 5\n", trials="-1").startswith(": trials:")


def test_stored_yaml_reads_back_as_the_same_sweep_without_out(tmp_path: Path) -> None:
    spec = SweepSpec(
        space="digits_cnn",
        out="somewhere",
        objective="gain_best",
        parameters={"learning_rate": {"min": 0.1, "max": 1, "distribution": "log_uniform"}},  # type: ignore[dict-item]
        fixed={"epochs": 2},
    )
    path = tmp_path / "sweep.yaml"
    path.write_text(spec.to_yaml())
    assert "out" not in yaml.safe_load(path.read_text())
    assert load_sweep(str(path)).spec.model_dump() == {**spec.model_dump(), "out": None}


def test_parameters_replace_ranges_and_fixed_fields(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text("space: digits_cnn\nparameters:\n  epochs: {values: [1, 2]}\nfixed: {momentum: 0.9}\n")
    space = load_sweep(str(path)).space
    assert space.knobs["epochs"].choices == (1, 2)  # type: ignore[attr-defined]
    assert "epochs" not in space.fixed
    assert space.fixed["momentum"] == 0.9
    assert "momentum" not in space.knobs


def test_paths_in_a_spec_count_from_its_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from optuna.distributions import FloatDistribution\nfrom search_spaces import Space\n"
        "SPACE = Space(doc='d', fixed={'dataset': 'digits', 'model': 'small_cnn', 'batch_size': 8},\n"
        "              knobs={'learning_rate': FloatDistribution(0.1, 1.0)})\n"
    )
    path = tmp_path / "spec.yaml"
    path.write_text("space: mine.py\ndata: root\n")
    spec = load_sweep(str(path)).spec
    assert spec.data == str(tmp_path / "root")
    assert load_space(spec).name == "mine"


def test_set_flags_are_yaml_and_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    path.write_text("space: digits_cnn\nparameters: {momentum: {values: [0, 0.9]}}\nfixed: {epochs: 4, warmup: 0.1}\n")
    flags = ["epochs=2", "momentum=0.5", "base.steps=7", 'dataset_options={"label_noise": 0.1}', "clip_norm=1e-1"]
    spec = load_sweep(str(path), {"fixed": parse_assignments([*flags, "dataset_options.split_seed=3"])}).spec
    assert spec.fixed["warmup"] == 0.1
    assert set(spec.parameters) == set()
    space = load_space(spec)
    built = space.build({k: _first(d) for k, d in space.knobs.items()})
    assert (built.epochs, built.momentum, built.clip_norm) == (2, 0.5, 0.1)
    assert (built.base.steps, built.base.learning_rate) == (7, 0.02)
    assert built.dataset_options == {"label_noise": 0.1, "split_seed": 3}
    stored = tmp_path / "stored.yaml"
    stored.write_text(spec.to_yaml())
    assert load_sweep(str(stored)).spec.identity() == spec.identity()


def _first(distribution: Any) -> Any:
    return distribution.choices[0] if hasattr(distribution, "choices") else distribution.low


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimizer", "--set needs KEY=VALUE, such as optimizer=adamw, got 'optimizer'"),
        ("=3", "--set needs KEY=VALUE"),
        ("base={steps: [", "--set base: not YAML: "),
    ],
)
def test_a_wrong_set_flag_is_named(text: str, message: str) -> None:
    with pytest.raises(SpecError) as error:
        parse_assignments([text])
    assert str(error.value).startswith(message)


def test_what_the_rows_hold_is_part_of_a_sweep_and_places_are_not() -> None:
    plain = SweepSpec(space="digits_cnn")
    for key, value in {"landscape": True, "plane": 5, "measure": 3, "deterministic": True}.items():
        assert SweepSpec(space="digits_cnn", **{key: value}).identity() != plain.identity()  # type: ignore[arg-type]
    elsewhere = SweepSpec(
        space="digits_cnn", data="d", cache="c", download=True, resident_share=0.1, loader_workers=0, workers=3
    )
    assert elsewhere.identity() == plain.identity()
    runtime = elsewhere.runtime(Path("bases"), "cpu")
    assert (runtime.data_root, runtime.cache) == (str(Path("d").absolute()), str(Path("c").absolute()))
    assert (runtime.bases, runtime.device, runtime.download, runtime.loader_workers) == ("bases", "cpu", True, 0)
    assert set(vars(runtime)) == set(vars(plain.runtime(None)))
