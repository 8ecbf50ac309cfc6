"""A run folder holds one sweep and reproduces it; other sweeps and drivers are refused."""

from pathlib import Path

import pytest

import sweeper
from sweeper import SpecError, SweepSpec, load_results
from tests.support.inline_sweeps import digests, sweep
from trainables.spec import PairSpec


def test_the_folder_holds_what_reproduces_the_sweep(tmp_path: Path) -> None:
    from sweeper.config.load import load_sweep

    first = sweep(tmp_path / "a", trials=5, objective="gain_mean", seed=3)
    spec = load_sweep(str(tmp_path / "a" / "sweep.yaml"), {"out": str(tmp_path / "b")}).spec
    second = sweeper.run(spec)
    assert sorted(digests(first)) == sorted(digests(second))
    assert load_results(tmp_path / "b").objective == "gain_mean"
    row = first.trials.to_pylist()[0]
    assert PairSpec.from_json(row["spec"]).digest == row["digest"]


def test_a_folder_with_another_sweep_is_refused(tmp_path: Path) -> None:
    sweep(tmp_path, trials=2)
    with pytest.raises(SpecError, match=r"holds another sweep \(seed is 0 there and 7 here\)"):
        sweep(tmp_path, trials=2, seed=7)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(SpecError, match="is not empty and holds no sweep"):
        sweep(tmp_path / "other")
    assert [p.name for p in (tmp_path / "other").iterdir()] == ["thesis.txt"]


def test_two_drivers_in_one_folder_are_refused(tmp_path: Path) -> None:
    from sweeper.storage.run_folder import is_running, locked

    sweep(tmp_path, trials=1)
    stored = (tmp_path / "sweep.yaml").read_text()
    assert not is_running(tmp_path)
    with locked(tmp_path):
        assert is_running(tmp_path)
        with pytest.raises(SpecError, match="another process is running the sweep"):
            sweep(tmp_path, trials=2)
    spec = SweepSpec(space="synthetic", runner="inline", sampler="random", trials=9, out=str(tmp_path))
    with pytest.raises(SpecError, match="holds a part of this sweep"):
        sweeper.run(spec, confirm=lambda *_: False)
    assert (tmp_path / "sweep.yaml").read_text() == stored  # a refusal changes nothing


def test_fewer_trials_than_are_there_are_refused(tmp_path: Path) -> None:
    sweep(tmp_path, trials=4)
    with pytest.raises(SpecError, match="trials must be at least 4, the number of configurations in the run folder"):
        sweep(tmp_path, trials=3)
    assert "trials: 4" in (tmp_path / "sweep.yaml").read_text()


def test_a_grid_of_another_size_is_another_sweep(tmp_path: Path) -> None:
    sweep(tmp_path, sampler="grid", trials=4)
    with pytest.raises(SpecError, match="trials is 4 there and 9 here"):
        sweep(tmp_path, sampler="grid", trials=9)


def test_a_changed_space_file_names_the_knob_or_field(tmp_path: Path) -> None:
    file, out = tmp_path / "own.py", tmp_path / "run"
    text = (
        "from optuna.distributions import FloatDistribution\nfrom search_spaces import synthetic\n"
        "SPACE = synthetic.SPACE.override({'momentum': FloatDistribution(0.0, 0.9)}, fixed={'epochs': 4}, doc='mine')\n"
    )
    file.write_text(text)
    sweep(out, space=str(file), trials=2)
    for old, new, sentence in (
        ("0.9)", "0.8)", "the file own.py changed: knobs.momentum"),
        ("'epochs': 4", "'epochs': 5", "the file own.py changed: fixed.epochs is 4 there and 5 here"),
        ("'epochs': 4", "'epochs': 4, 'warmup': 0.1", "the file own.py changed: fixed.warmup is only here"),
        ("SPACE =", "# a remark\nSPACE =", "the file own.py changed, but not its knobs and fields"),
    ):
        file.write_text(text.replace(old, new))
        with pytest.raises(SpecError, match="holds another sweep") as error:
            sweep(out, space=str(file), trials=2)
        assert sentence in str(error.value)
        assert len(str(error.value)) < 400
        assert "import" not in str(error.value)


def test_a_long_setting_that_changed_is_named_by_its_entry(tmp_path: Path) -> None:
    points = [{"learning_rate": 0.01 * i, "momentum": 0.5} for i in range(1, 13)]
    sweep(tmp_path, trials=12, enqueue=points)
    other = [*points[:4], {"learning_rate": 0.5, "momentum": 0.5}, *points[5:]]
    with pytest.raises(SpecError, match=r"entry 5 of enqueue\.learning_rate is 0\.05 there and 0\.5 here"):
        sweep(tmp_path, trials=12, enqueue=other)
    with pytest.raises(SpecError, match="enqueue has 12 entries there and 11 here"):
        sweep(tmp_path, trials=12, enqueue=points[:11])
