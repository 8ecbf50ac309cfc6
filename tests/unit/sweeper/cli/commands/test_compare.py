"""Sweeps side by side: each number is that of its own sweep, and what makes them incomparable is said."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sweeper.analysis.comparison import Overlap, compare_intervals, read_summary
from sweeper.analysis.regime import fit_regime
from sweeper.cli.commands.compare import _shorten_names
from sweeper.cli.main import main
from sweeper.storage.tables import read_trials
from tests.support.inline_sweeps import sweep

DIGITS = Path(__file__).parents[4] / "data" / "digits_pairs.parquet"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("compare")
    sweep(folder / "first", sampler="qmc", trials=24, objective="gain_mean")
    sweep(folder / "second", sampler="qmc", trials=24, objective="gain_mean", seed=1)
    sweep(folder / "other", sampler="tpe", trials=8, noise="linear")
    pairs = [r for r in pq.read_table(DIGITS).to_pylist() if r["momentum"] == 0.9 and r["weight_decay"] == 0.0]
    rows = [r for r in pairs if r["batch_size"] in (16, 32)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "pairs.parquet")
    argv = ["import", str(folder / "pairs.parquet"), "--space", "digits_cnn", "--out", str(folder / "imported")]
    assert main(argv) == 0
    return {name: folder / name for name in ("first", "second", "other", "imported")}


def compared(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["compare", *argv, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_each_column_holds_its_own_sweeps_numbers(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    record = compared(capsys, str(runs["first"]), str(runs["second"]))
    assert [s["name"] for s in record["sweeps"]] == ["first", "second"]
    for found in record["sweeps"]:
        trials = read_trials(found["run"])
        assert (found["trials"], found["configs"]) == (24, 24)
        assert found["device_seconds"] == pytest.approx(sum(trials["device_seconds"].to_pylist()))
        for name in ("gain_mean", "merged_loss"):
            regime = fit_regime(trials, name, "paper")
            mine = found["regimes"][name]
            assert [mine[k] for k in ("optimum", "low", "high", "edge_share", "interior", "value")] == [
                regime.optimum, regime.low, regime.high, regime.edge_share, regime.interior, regime.value
            ]  # fmt: skip
        row = next(r for r in trials.to_pylist() if r["digest"] == found["best"]["digest"])
        best = found["best"]
        assert (best["loss"], best["gain"]) == (row["chosen_loss_test"], row["gain_mean_loss_test"])
        assert (best["noise"], best["knobs"]["batch_size"]) == (row["noise_paper"], row["batch_size"])
    (pair,) = record["overlaps"]["gain_mean"]
    a, b = (s["regimes"]["gain_mean"] for s in record["sweeps"])
    assert pair["overlap"] == (max(a["low"], b["low"]) <= min(a["high"], b["high"]))
    assert pair["factor"] == pytest.approx(b["optimum"] / a["optimum"])
    assert [n for n in record["notes"] if "differ" in n] == []
    assert any("synthetic closed form" in n for n in record["notes"])


def test_a_folder_may_be_named_by_its_uri(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    record = compared(capsys, str(runs["first"]), str(runs["other"]))
    uri = f"file://{runs['other']}"
    assert compared(capsys, str(runs["first"]), uri) == {
        **record, "sweeps": [record["sweeps"][0], {**record["sweeps"][1], "run": uri}]
    }  # fmt: skip
    assert main(["compare", str(runs["other"]), uri]) == 2
    assert "run folders must differ" in capsys.readouterr().err


def test_what_differs_is_said(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    record = compared(capsys, *map(str, runs.values()))
    notes = " ".join(record["notes"])
    for text in (
        "differ in noise (first, second, imported: paper; other: linear)",
        "differ in objective (first, second: gain_mean; other, imported: merged_loss)",
        "differ in split (first, second, other: validation; imported: test)",
        "differ in task",
        "the device time of imported is unknown",
        "imported: imported from a table",
    ):
        assert text in notes, text
    named = {(o["a"], o["b"]) for o in record["overlaps"]["gain_mean"]}
    assert named == {("first", "second"), ("first", "imported"), ("second", "imported")}  # not another noise's
    same = compared(capsys, *map(str, runs.values()), "--noise", "linear", "--objective", "gain_mean")
    assert not any("in noise" in n or "in objective" in n for n in same["notes"])
    assert {s["noise"] for s in same["sweeps"]} == {"linear"}
    assert {s["best"]["objective"] for s in same["sweeps"]} == {"gain_mean"}
    assert list(same["sweeps"][0]["regimes"]) == ["gain_mean"]
    assert same["sweeps"][3]["best"]["merge"] == "linear at 0.5"


def test_the_text_fits_a_terminal(runs: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *map(str, runs.values())]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    assert sum(line.startswith("best noise, gain_mean") for line in lines) == 2  # two blocks
    assert any(line.startswith("gain_mean: the 90 % intervals") for line in lines)


def test_intervals_that_touch_overlap(runs: dict[str, Path]) -> None:
    from dataclasses import replace

    one = read_summary(runs["first"], "one", ["gain_mean"], None, None)
    regime = one.regimes["gain_mean"]

    def moved(name: str, factor: float) -> Any:
        low, high = (v * factor for v in (regime.low or 0, regime.high or 0))
        optimum = (regime.optimum or 0) * factor
        return replace(one, name=name, regimes={"gain_mean": replace(regime, optimum=optimum, low=low, high=high)})

    touching, beyond = moved("touching", (regime.high or 0) / (regime.low or 1)), moved("beyond", 1e3)
    none = replace(one, name="none", regimes={"gain_mean": replace(regime, optimum=None)})
    assert [o.overlap for o in compare_intervals([one, touching, beyond, none], "gain_mean")] == [True, False, False]
    assert compare_intervals([one, beyond], "gain_mean") == [Overlap("one", "beyond", False, pytest.approx(1e3))]


def test_sweeps_have_different_names() -> None:
    assert _shorten_names([Path("/a/x"), Path("/b/x")]) == ["a/x", "b/x"]
    assert _shorten_names([Path("/a/x"), Path("/a/y")]) == ["x", "y"]
    long = _shorten_names([Path(f"/runs/{'q' * 40}-{i}") for i in range(2)])
    assert len(set(long)) == 2
    assert max(map(len, long)) <= 24


def test_folders_that_cannot_be_compared_are_said(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*argv: str) -> str:
        capsys.readouterr()
        assert main(["compare", *argv]) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        return err

    first = str(runs["first"])
    assert "needs at least two run folders" in said(first)
    assert "run folders must differ" in said(first, first)
    assert "holds no sweep" in said(first, str(tmp_path))
    assert "there is no folder" in said(first, str(tmp_path / "none"))
    assert "did you mean gain_mean" in said(first, str(runs["other"]), "--objective", "gain_men")
    assert "has no column" in said(first, str(runs["other"]), "--noise", "fitted")


def test_half_a_part_and_an_empty_sweep_are_shown_as_such(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    torn, empty = tmp_path / "torn", tmp_path / "empty"
    shutil.copytree(runs["first"], torn)
    part = sorted((torn / "trials").iterdir())[0]
    part.write_bytes(part.read_bytes()[:2000])
    empty.mkdir()
    shutil.copyfile(runs["first"] / "sweep.yaml", empty / "sweep.yaml")
    record = compared(capsys, str(torn), str(empty))
    assert [s["trials"] for s in record["sweeps"]] == [23, 0]
    assert record["sweeps"][1]["best"] is record["sweeps"][1]["device_seconds"] is None
    assert main(["compare", str(torn), str(empty)]) == 0
    shown = capsys.readouterr()
    assert shown.err.count("it was skipped") == 1
    assert "gain_mean, empty: best noise not determined" in shown.out
