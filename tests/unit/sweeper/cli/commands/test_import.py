"""Tables from elsewhere: columns by name, what can be computed is, nothing is invented, every reader copes."""

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from sweeper.analysis.regime import fit_regime
from sweeper.cli.main import main
from sweeper.errors import SpecError
from sweeper.storage.external.columns import map_columns
from sweeper.storage.run_folder import stored_spec
from sweeper.storage.tables import read_trials
from trainables.noise import NOISE
from trainables.spec import PairSpec

DIGITS = Path(__file__).parents[4] / "data" / "digits_pairs.parquet"
ISSUE = ["--map", "lr=learning_rate,loss_merged=merged_loss_test"]
PAIR = {"lr": 0.1, "bs": 32, "mu": 0.9, "wd": 1e-3, "seed": 3, "loss_a": 0.30, "loss_b": 0.20, "loss_merged": 0.22,
        "acc_a": 0.90, "acc_b": 0.94, "acc_merged": 0.95}  # fmt: skip


def rows_of(run: Path) -> list[dict[str, Any]]:
    return read_trials(run).to_pylist()


def imported(folder: Path, rows: list[dict[str, Any]], *more: str, space: str = "digits_cnn") -> list[dict[str, Any]]:
    pq.write_table(pa.Table.from_pylist(rows), folder / "pairs.parquet")
    run = folder / "run"
    assert main(["import", str(folder / "pairs.parquet"), "--space", space, "--out", str(run), *more]) == 0
    return rows_of(run)


def fails(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    capsys.readouterr()
    assert main(list(argv)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("import") / "digits"
    assert main(["import", str(DIGITS), "--space", "digits_cnn", "--out", str(run), *ISSUE]) == 0
    return run


def test_gains_and_noises_are_those_of_their_definitions(tmp_path: Path) -> None:
    (row,) = imported(tmp_path, [PAIR], "--set", "examples=900", "--set", "augmentation_strength=0")
    assert row["gain_mean_loss_test"] == pytest.approx((0.30 + 0.20) / 2 - 0.22)
    assert row["gain_best_loss_test"] == pytest.approx(0.20 - 0.22)
    assert row["gain_mean_accuracy_test"] == pytest.approx(0.95 - (0.90 + 0.94) / 2)
    assert row["gain_best_accuracy_test"] == pytest.approx(0.95 - 0.94)
    assert row["noise_paper"] == pytest.approx(0.1 / (32 * 0.1))
    assert row["noise_paper_v1"] == pytest.approx(0.1 / (32 * 0.1**2))
    assert row["noise_linear"] == pytest.approx(0.1 / 32)
    assert row["noise_smith_le"] == pytest.approx(0.1 * 900 / (32 * 0.1))
    assert row["noise_wd_equilibrium"] == pytest.approx(math.sqrt(0.1 * 1e-3 / (32 * 0.1)))
    assert row["noise_paper_aug"] == row["noise_paper"]  # without augmentation
    assert row["merged_loss_val"] is row["gain_mean_loss_val"] is row["noise_dose"] is None
    assert row["device_seconds"] is row["device"] is row["started"] is row["seconds_train"] is None
    assert (row["trainable"], row["outcome"], row["repeat"], row["number"]) == ("imported", "ok", 0, 0)
    spec = PairSpec.from_json(row["spec"])
    assert (spec.digest, spec.config) == (row["digest"], row["config"])
    assert (spec.trainable, spec.model, spec.epochs) == ("imported", "small_cnn", 8)  # the space's


def test_what_is_not_known_stays_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = imported(tmp_path, [{**PAIR, "remark": "x"}])
    assert row["augmentation_strength"] is row["noise_paper_aug"] is row["noise_smith_le"] is row["examples"] is None
    assert row["noise_paper"] is not None
    out = " ".join(capsys.readouterr().out.split())
    assert (
        "loss_a, loss_b, loss_merged, acc_a, acc_b, acc_merged have no split in their name, so they count as test"
        in out
    )
    assert "not taken: remark" in out
    assert "augmentation_strength is unknown and stays empty" in out
    assert "training examples is unknown" in out


def test_splits_measurements_and_settings_of_the_table_are_kept(tmp_path: Path) -> None:
    pair = {k: v for k, v in PAIR.items() if not k.startswith(("loss", "acc"))}
    pair |= {"a_loss_val": 0.3, "b_loss_val": 0.3, "val_merged": 0.25, "trace_sigma": 2.0, "classes": 7, "epochs": 3}
    pair |= {"optimizer": "sgdw", "gain_best_loss_val": 9.0, "hessian_trace_a": 5.0, "empty": None}
    (row,) = imported(tmp_path, [pair], "--map", "val_merged=merged_loss_val", "--set", "accuracy_floor=0.2")
    assert row["gain_mean_loss_val"] == pytest.approx(0.05)
    assert row["gain_best_loss_val"] == pytest.approx(0.05)  # computed, not believed
    assert row["noise_paper_full"] == pytest.approx(2.0 * row["noise_paper"])
    assert row["noise_wd_angular"] is None  # of a decay inside the gradient
    assert (row["classes"], row["epochs"], row["optimizer"], row["hessian_trace_a"]) == (7, 3, "sgdw", 5.0)
    assert row["merged_loss_test"] is None


def test_import_numbers_repeats_and_reads_outcomes(tmp_path: Path) -> None:
    rows = [{**PAIR, "seed": s} for s in (7, 2, 5)]
    rows += [{**PAIR, "lr": 1.0, "loss_b": None}, {**PAIR, "lr": 2.0, "loss_merged": math.inf}]
    rows += [{**PAIR, "lr": 3.0, "acc_b": 0.4}]
    found = imported(tmp_path, rows)
    assert [(r["number"], r["repeat"]) for r in found] == [(0, 0), (0, 1), (0, 2), (1, 0), (2, 0), (3, 0)]
    assert len({r["digest"] for r in found}) == 6
    assert [r["outcome"] for r in found] == ["ok"] * 3 + ["diverged", "diverged", "not_viable"]
    assert "b_loss_test is empty" in found[3]["outcome_detail"]
    assert "accuracy 0.400 is below the floor 0.5" in found[5]["outcome_detail"]
    assert found[3]["gain_mean_loss_test"] is None
    spec = stored_spec(tmp_path / "run")
    assert (spec.trials, spec.repeats) == (4, 1)


def test_the_digits_pairs_are_a_sweep(digits: Path) -> None:
    rows = rows_of(digits)
    table = pq.read_table(DIGITS).to_pylist()
    assert len(rows) == len(table) == 1170
    assert len({r["digest"] for r in rows}) == 1170
    ours = {(r["learning_rate"], r["batch_size"], r["momentum"], r["weight_decay"], r["repeat"]): r for r in rows}
    for theirs in table:
        row = ours[tuple(theirs[k] for k in ("lr", "batch_size", "momentum", "weight_decay", "seed"))]
        settings = {"learning_rate": theirs["lr"], "batch_size": theirs["batch_size"], "momentum": theirs["momentum"]}
        assert row["noise_paper"] == NOISE["paper"].predict(settings)
        if row["outcome"] != "diverged":
            expected = (theirs["loss_a"] + theirs["loss_b"]) / 2 - theirs["loss_merged"]
            assert row["gain_mean_loss_test"] == pytest.approx(expected, abs=1e-12)
        viable = min(theirs["acc_a"], theirs["acc_b"]) >= 0.5
        assert row["outcome"] in ("diverged", "ok" if viable else "not_viable")
    assert {r["sampler"] for r in rows} == {"grid"}  # every level with every other
    assert len(list((digits / "trials").iterdir())) == 1
    regime = fit_regime(read_trials(digits), "gain_mean")
    assert regime.optimum is not None
    assert 5e-3 < regime.optimum < 3e-2  # as docs/findings/pairs.md has it for these pairs
    assert not regime.adaptive


def test_every_reader_opens_an_imported_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    some = [r for r in pq.read_table(DIGITS).to_pylist() if r["momentum"] == 0.9 and r["weight_decay"] == 1e-3]
    rows, run = imported(tmp_path, some), tmp_path / "run"
    capsys.readouterr()
    assert main(["status", str(run), "--json"]) == 0
    status = json.loads(capsys.readouterr().out)
    progress = status["progress"]
    assert (progress["done"], progress["budget"], status["sampler"], progress["trials"]) == (65, 65, "grid", 195)
    assert main(["best", str(run)]) == 0
    out = capsys.readouterr().out
    for text in ("imported from a table", "unknown device time", "on test (the only measured split)", "test loss"):
        assert text in out
    assert "synthetic" not in out
    assert "trains that trial again" not in out
    assert main(["best", str(run), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    means: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        means.setdefault(row["config"], []).append(row)
    ok = [r for r in means.values() if all(x["outcome"] == "ok" for x in r)]
    least = min(math.fsum(x["merged_loss_test"] for x in r) / len(r) for r in ok)
    assert record["best"]["config_mean"] <= least + 0.01
    assert record["best"]["column"] == "merged_loss_test"
    for command in ("list", "recommend", "export"):
        assert main([command, str(run)]) == 0
    page = tmp_path / "page.html"
    assert main(["export", str(run), "--html", str(page)]) == 0
    assert "imported from a table" in page.read_text()


def test_nothing_can_be_run_in_an_imported_folder(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = fails(capsys, "resume", str(digits))
    assert "imported from a table" in said
    assert "sweeper run digits_cnn" in said
    digest = rows_of(digits)[0]["digest"]
    assert "comes from an imported table" in fails(capsys, "pair", str(digits), digest)
    assert "comes from an imported table" in fails(
        capsys, "run", str(digits / "sweep.yaml"), "--out", str(digits / "again")
    )


def test_how_configurations_were_chosen_is_not_guessed(tmp_path: Path) -> None:
    rows = [{**PAIR, "lr": 0.01 * 1.37**i, "bs": 8 + i, "seed": 0} for i in range(8)]
    assert {r["sampler"] for r in imported(tmp_path, rows)} == {"unknown"}
    assert "sampler" not in (tmp_path / "run" / "sweep.yaml").read_text().split("workers")[0]
    (tmp_path / "told").mkdir()
    assert {r["sampler"] for r in imported(tmp_path / "told", rows, "--sampler", "qmc")} == {"qmc"}
    assert stored_spec(tmp_path / "told" / "run").sampler == "qmc"


@pytest.mark.parametrize("suffix", ["csv", "feather", "arrow"])
def test_other_formats_hold_the_same(tmp_path: Path, suffix: str) -> None:
    table = pa.Table.from_pylist([{**PAIR, "lr": 0.1 * (i + 1), "loss_b": None if i else 0.2} for i in range(3)])
    path = tmp_path / f"t.{suffix}"
    pyarrow.csv.write_csv(table, path) if suffix == "csv" else pyarrow.feather.write_feather(table, path)
    assert main(["import", str(path), "--space", "digits_cnn", "--out", str(tmp_path / "a")]) == 0
    pq.write_table(table, tmp_path / "t.parquet")
    assert main(["import", str(tmp_path / "t.parquet"), "--space", "digits_cnn", "--out", str(tmp_path / "b")]) == 0
    left, right = (read_trials(tmp_path / n).drop_columns(["outcome_detail"]) for n in "ab")
    assert left.equals(right)


def test_an_exported_sweep_can_be_imported(tmp_path: Path) -> None:
    run, table = tmp_path / "run", tmp_path / "trials.csv"
    assert main(["run", "synthetic", "--runner", "inline", "--trials", "6", "--repeats", "2", "--sampler", "qmc",
                 "--out", str(run)]) == 0  # fmt: skip
    assert main(["export", str(run), "--out", str(table)]) == 0
    assert main(["import", str(table), "--space", "synthetic", "--sampler", "qmc", "--out", str(tmp_path / "b")]) == 0
    old, new = rows_of(run), rows_of(tmp_path / "b")
    kept = ["learning_rate", "repeat", "number", "outcome", "merged_loss_val", "gain_mean_loss_test", "noise_paper",
            "noise_smith_le", "barrier_frankle_loss_val", "chosen_merge", "steps"]  # fmt: skip
    for name in kept:
        assert [r[name] for r in new] == pytest.approx([r[name] for r in old]), name
    assert {r["trainable"] for r in new} == {"imported"}
    assert not {r["digest"] for r in old} & {r["digest"] for r in new}


def test_import_reads_columns_by_name() -> None:
    found = map_columns(["ETA", "bs", "loss_a", "accuracy_b_val", "merged_acc", "seed", "what"], {})
    assert dict(found.sources) == {
        "learning_rate": "ETA", "batch_size": "bs", "a_loss_test": "loss_a", "b_accuracy_val": "accuracy_b_val",
        "merged_accuracy_test": "merged_acc", "repeat": "seed",
    }  # fmt: skip
    assert found.assumed == ("loss_a", "merged_acc")
    assert found.unused == ("what",)
    assert dict(map_columns(["seed", "repeat"], {}).sources) == {"seed": "seed", "repeat": "repeat"}
    assert map_columns(["lr", "x"], {"lr": "", "x": "learning_rate"}).unused == ("lr",)
    with pytest.raises(SpecError, match="both learning_rate"):
        map_columns(["lr", "eta"], {})


@pytest.mark.parametrize(
    ("change", "flags", "message"),
    [
        ({}, ["--map", "lrr=learning_rate"], "unknown column 'lrr'; did you mean lr"),
        ({}, ["--map", "lr=learning_rat"], "unknown name 'learning_rat'; did you mean learning_rate"),
        ({}, ["--map", "lr=noise_paper"], "noise_paper is computed, not imported"),
        ({}, ["--map", "lr"], "--map needs COLUMN=NAME"),
        ({}, ["--set", "momentum=0"], "momentum is set and also column 'mu'"),
        ({}, ["--set", "momentun=0"], "unknown"),
        ({}, ["--set", "examples=-3"], "examples must be a whole number >= 1, got -3"),
        ({}, ["--sampler", "grit"], "unknown sampler 'grit'; did you mean grid"),
        ({"mu": None}, [], "column 'mu' of pairs.parquet is empty; --set momentum=VALUE where all rows share it"),
        ({}, ["--map", "mu="], "has no column for momentum; name it by --map COLUMN=momentum, or --set momentum=VALUE"),
        ({"mu": 1.5}, [], "pairs.parquet, row 1: momentum must lie in [0, 1), got 1.5"),
        ({"lr": "fast"}, [], "learning_rate must be a number, got 'fast'"),
        ({"loss_a": "low"}, [], "pairs.parquet, row 1: column 'loss_a': a_loss_test must be a number, got 'low'"),
        ({"acc_a": 94.0}, [], "a_accuracy_test must lie in [0, 1], got 94.0; divide percentages by 100"),
        ({"outcome": "fine"}, [], "unknown outcome 'fine'"),
        ({}, ["--space", "digits_cnm"], "unknown space 'digits_cnm'; did you mean digits_cnn"),
    ],
)
def test_what_cannot_be_used_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], flags: list[str], message: str
) -> None:
    pq.write_table(pa.Table.from_pylist([{**PAIR, **change}]), tmp_path / "pairs.parquet")
    space = [] if "--space" in flags else ["--space", "digits_cnn"]
    out = ["--out", str(tmp_path / "run")]
    assert message in fails(capsys, "import", str(tmp_path / "pairs.parquet"), *space, *flags, *out)
    assert not (tmp_path / "run").exists()


def test_rows_that_are_one_trial_are_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "pairs.parquet"
    pq.write_table(pa.Table.from_pylist([PAIR, {**PAIR, "lr": 0.2}, {**PAIR, "loss_a": 0.1}]), path)
    said = fails(capsys, "import", str(path), "--space", "digits_cnn", "--out", str(tmp_path / "run"))
    assert "rows 1 and 3 of pairs.parquet are the same trial (learning_rate 0.1, batch_size 32" in said
    assert "--map COLUMN=repeat" in said
    plain = {k: v for k, v in PAIR.items() if k != "seed"}
    found = imported(tmp_path, [plain, {**plain, "loss_a": 0.1}])  # without seeds: two repeats
    assert [r["repeat"] for r in found] == [0, 1]


def test_files_that_are_no_tables_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def said(path: Path, *more: str) -> str:
        return fails(capsys, "import", str(path), "--space", "digits_cnn", *more)

    assert "must be one of .parquet" in said(tmp_path / "pairs.xlsx")
    assert "there is no file" in said(tmp_path / "none.parquet")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and then nothing")
    assert "cannot read" in said(tmp_path / "torn.parquet")
    (tmp_path / "torn.arrow").write_bytes(b"nothing")
    assert "cannot read" in said(tmp_path / "torn.arrow")
    (tmp_path / "empty.csv").write_text("lr,bs\n")
    assert "has no rows" in said(tmp_path / "empty.csv")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("x")
    assert "is not an empty folder; choose another --out" in said(DIGITS, "--out", str(tmp_path / "out"))
