"""`sweeper analyse` on run folders: what it prints, and bad input in one line with exit code 2."""

import json
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sweeper import SweepSpec
from sweeper.cli.main import main
from sweeper.config.space import load_space
from sweeper.formatting import wrap
from sweeper.storage.run_folder import write_start
from tests.support.stored_parts import rewrite


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("analyse") / "run"
    flags = ["--runner", "inline", "--sampler", "random", "--trials", "16", "--repeats", "2"]
    assert main(["run", "synthetic", *flags, "--out", str(out)]) == 0
    return out


def test_the_verdict_comes_first_and_what_is_missing_last(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyse", str(run)]) == 0
    text = capsys.readouterr().out
    assert re.match(
        r"(Hump|Undetermined|(Likely|No optimum|Undetermined) \((undetermined|plateau then cliff) by the tests\)): ",
        text,
    )
    assert "Two-lines test" in text
    assert max(map(len, text.splitlines())) <= 100
    assert text.splitlines()[-1].startswith(("- ", "  ", "this answer needs"))


def test_json_holds_each_folder_under_its_name(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tmp_path / "other"
    other.symlink_to(run)
    assert main(["analyse", str(run), str(other), "--json", "--objective", "merged_loss", "--noise", "linear"]) == 0
    record = json.loads(capsys.readouterr().out)["sweeps"]
    assert list(record) == [str(run), str(other)]
    assert record[str(run)]["verdict"] == record[str(other)]["verdict"]
    assert (record[str(run)]["objective"], record[str(run)]["noise"]) == ("merged_loss", "linear")


def test_conditions_choose_trials(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from sweeper.storage.tables import read_trials

    batches = read_trials(run)["batch_size"].to_pylist()
    size = max(set(batches), key=batches.count)
    assert main(["analyse", str(run), "--where", f"batch_size={size}", "--where", "outcome=ok", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["sweeps"][str(run)]
    assert 0 < found["n_trials"] <= batches.count(size)


def test_analyse_names_the_command_that_runs_the_missing_trials(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def missing(*argv: str) -> str:
        assert main(["analyse", *argv, "--noise", "linear"]) == 0
        return " ".join(capsys.readouterr().out.partition("a firm answer still needs")[2].split())

    assert re.match(rf"\(`sweeper extend {run} --noise linear` runs \d+ further trials?\): - ", missing(str(run)))
    for argv in ((str(run), "--where", "outcome=ok"), (str(run), "--split", "val")):
        assert missing(*argv).startswith(": - ")


def test_a_line_parts_no_number_from_its_unit_or_symbol() -> None:
    text = " ".join(["a share of 95 % of n = 12 and 3 ± 1, p < 1e-4"] * 9)
    lines = [line.strip() for line in wrap(text, 0).splitlines()]
    assert " ".join(lines) == text
    assert not any(line.startswith(("%", "=", "±", "<")) or line.endswith(("=", "±", "<")) for line in lines)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--noise", "papr"], "unknown noise 'papr'; did you mean paper"),
        (["--noise", "fitted"], "noise 'fitted' has no column"),
        (["--objective", "gain"], "unknown objective 'gain'; did you mean"),
        (["--split", "tset"], "unknown split 'tset'; did you mean test?"),
        (["--where", "momentun=0.9"], "unknown column 'momentun'; did you mean momentum or augmentation?"),
        (["--where", "momentum"], "--where needs COLUMN=VALUE, such as momentum=0.9, got 'momentum'"),
        (["--where", "outcome=fine"], "has outcome = fine; its values are "),
        (["--where", "batch_size=7"], "has batch_size = 7; its values are "),
    ],
)
def test_wrong_names_are_one_line(
    run: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["analyse", str(run), *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_run_without_windows_says_how_to_add_them(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyse", str(run), "--by-window"]) == 2
    assert "has no windows of checkpoints: --set 'window={size: 4}' of a run adds them" in capsys.readouterr().err


def test_windows_are_compared_with_the_last_weights(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run, tmp_path / "run")
    for part in (tmp_path / "run" / "merges").glob("*.parquet"):
        last = pq.read_table(part)
        place, column = last.column_names.index("window"), last.schema.field("window")
        wide = last.set_column(place, column, pa.array([4] * last.num_rows, column.type))
        rewrite(part, pa.concat_tables([last, wide]))
    assert main(["analyse", str(tmp_path / "run"), "--by-window"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["checkpoints", "trials", "children", "alone", "change", "their", "merge", "change"] in rows
    (four,) = [row for row in rows if row[:1] == ["4"]]
    assert four[3:] == ["+0", "(0", "to", "0)", four[7], "+0", "(0", "to", "0)"]


def test_folders_that_hold_nothing_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["analyse", str(tmp_path / "none")]) == 2
    assert "there is no folder" in capsys.readouterr().err
    assert main(["analyse", str(tmp_path)]) == 2
    assert "holds no sweep" in capsys.readouterr().err
    spec = SweepSpec(space="synthetic", trials=3)
    write_start(tmp_path, spec, load_space(spec))
    assert main(["analyse", str(tmp_path)]) == 2
    assert "holds no trials yet: `sweeper resume" in capsys.readouterr().err
