"""What a user typed cannot drive the terminal of whoever reads it: every command, every stream."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from sweeper.cli.main import main
from sweeper.cli.progress import Progress
from sweeper.config.plain_text import check_plain_values
from sweeper.errors import SpecError
from sweeper.runner.status import Status
from tests.support.fake_service import FakeService, event, sweep
from tests.support.stored_parts import rewrite
from trainables.io.printable import PrintableStream, is_plain, printable, printable_line

EVIL = "flip\x1b]0;owned\x07\x9b31m\u202edecaf\u2028\x7f"
BAD = ("\x1b", "\x07", "\x9b", "\u202e", "\u2028", "\x7f")
TEXTS = ("augmentation", "outcome_detail", "warnings", "sampler", "space", "device", "version", "commit")


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of an earlier version, whose text fields hold control characters."""
    folder = tmp_path_factory.mktemp("evil") / "run"
    made = ["run", "synthetic", "--runner", "inline", "--trials", "30", "--sampler", "qmc", "--out", str(folder)]
    assert main(made) == 0
    for i, part in enumerate(sorted((folder / "trials").glob("*.parquet"))):
        table = pq.read_table(part)
        for name in TEXTS:
            value = f"{name}: {EVIL}" if name == "warnings" else EVIL
            column = pa.array([value] * table.num_rows, table.schema.field(name).type)
            table = table.set_column(table.column_names.index(name), table.schema.field(name), column)
        if i == 0:
            failed = pa.array(["failed"] * table.num_rows, pa.string())
            table = table.set_column(table.column_names.index("outcome"), table.schema.field("outcome"), failed)
        rewrite(part, table)
    spec = yaml.safe_load((folder / "sweep.yaml").read_text())
    spec["fixed"] = {**(spec.get("fixed") or {}), "augmentation": EVIL}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(spec, allow_unicode=True))
    return folder


READERS = (
    ("status",), ("list",), ("best",), ("recommend",), ("analyse",), ("compare",), ("compact",), ("pair",),
    ("export", "--out", "OUT/trials.csv"), ("export", "--html", "OUT/page.html"), ("extend", "--dry-run"),
    ("resume", "--runner", "inline", "--trials", "1"),
)  # fmt: skip


@pytest.mark.parametrize("command", READERS, ids=lambda c: " ".join(c[:2]))
@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
def test_every_reader_escapes_what_a_folder_holds(
    stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], as_json: bool
) -> None:
    name, *flags = (part.replace("OUT", str(tmp_path)) for part in command)
    also = {"compare": [str(stored)], "pair": [pq.read_table(stored / "trials")["digest"][0].as_py()]}.get(name, [])
    capsys.readouterr()
    main([name, str(stored), *also, *flags, *(["--json"] if as_json else [])])
    said = capsys.readouterr()
    assert said.out or said.err
    assert not [c for c in BAD if c in said.out + said.err]
    if as_json and said.out:
        json.loads(said.out)


def test_usage_errors_and_unknown_names_are_escaped_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in ([f"sta{EVIL}"], ["status", f"a\n{EVIL}"], ["run", EVIL], ["status", "x", f"--{EVIL}\nmore"]):
        code = main(argv)
        said = capsys.readouterr().err
        assert code == 2
        assert said.count("\n") == 1
        assert not [c for c in BAD if c in said]


def test_a_traceback_of_the_process_is_escaped() -> None:
    code = f"from trainables.io.printable import guard_output\nguard_output()\nraise ValueError({EVIL!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ValueError: flip\\u001b]0;owned" in done.stderr
    assert not [c for c in BAD if c in done.stderr]


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_progress_bar_moves_the_cursor_and_its_text_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = _Terminal()
    with Progress(f"loss{EVIL}", stream=terminal) as progress:
        progress(Status(4, done=1, warnings={"odd": EVIL}))
        progress.line(f"warning: {EVIL}")
    drawn = terminal.getvalue()
    assert "1/4 " in drawn
    assert drawn.count(printable(EVIL)) >= 3
    moves = re.compile(r"\x1b\[(\?25[hl]|2K|1A)")  # hide and show the cursor, erase a line, go up a line
    assert moves.search(drawn)
    assert not [c for c in BAD if c in moves.sub("", drawn)]


def test_escaping_keeps_text_json_and_what_a_stream_can() -> None:
    assert printable("Straße – 名前 ±1\t|\n") == "Straße – 名前 ±1\t|\n"
    assert printable_line("a\tb\n") == "a\\tb\\n"
    assert printable("\U000e0041\ud800") == "\\udb40\\udc41\\ud800"
    text = json.dumps({"name": EVIL + "\U000e0041"}, ensure_ascii=False)
    assert json.loads(printable(text)) == json.loads(text)
    assert is_plain("tries – 2")
    assert not any(is_plain(c) for c in (*BAD, "\n", "\t", "\0", "\u2029", "\ufeff", "\u200d"))
    raw = io.StringIO()
    stream = PrintableStream.of(PrintableStream.of(raw))
    assert stream.raw is raw
    stream.writelines(["a\x1b\n", "b\r"])
    assert raw.getvalue() == "a\\u001b\nb\\u000d"
    assert not stream.isatty()


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"fixed": {"augmentation": EVIL}}, "fixed.augmentation"),
        ({"fixed": {EVIL: 1}}, "a key of fixed"),
        ({"parameters": {"optimizer": {"values": ["sgd", "adam\u202e"]}}}, "parameters.optimizer.values"),
        ({"enqueue": [{"augmentation": "x\n"}]}, "enqueue.augmentation"),
        ({"space": "a\x9b"}, "space"),
    ],
)
def test_names_and_strings_of_a_spec_are_plain(values: dict[str, object], named: str) -> None:
    with pytest.raises(SpecError, match=rf"^{named} must not hold control or format characters, got '[ -~]*'$"):
        check_plain_values(values)
    check_plain_values({"fixed": {"source": "import torch\n", "augmentation": "größer"}})


def test_a_run_is_refused_with_the_line_and_an_old_folder_stays_readable(
    stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spec = tmp_path / "evil.yaml"
    spec.write_text('space: synthetic\nfixed:\n  augmentation: "flip\\e[31m"\n')
    capsys.readouterr()
    assert main(["run", str(spec), "--out", str(tmp_path / "run")]) == 2
    line = capsys.readouterr().err
    rule = "must not hold control or format characters, got 'flip\\x1b[31m'"
    assert line == f"error: {spec}, line 3: fixed.augmentation {rule}\n"
    assert not (tmp_path / "run").exists()
    assert main(["run", "synthetic", "--set", "augmentation=\u202eflip", "--out", str(tmp_path / "run")]) == 2
    assert "fixed.augmentation must not hold control or format characters" in capsys.readouterr().err
    models = [str(tmp_path / name) for name in "ab"]
    for model in models:
        Path(model).touch()
    assert main(["merge", "--models", *models, "--space", "synthetic", "--set", "augmentation=\u202eflip"]) == 2
    assert "fixed.augmentation must not hold control or format characters" in capsys.readouterr().err
    assert main(["status", str(stored)]) == 0


@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
@pytest.mark.parametrize(
    "command",
    [("status", "ID"), ("status", "ID", "--follow"), ("list",), ("best", "ID"), ("recommend", "ID"), ("stop", "ID"),
     ("list", "OTHER")],
    ids=lambda c: " ".join(c),
)  # fmt: skip
def test_what_a_service_says_is_escaped(
    service: FakeService, capsys: pytest.CaptureFixture[str], command: tuple[str, ...], as_json: bool
) -> None:
    said = {"reason": EVIL, "name": EVIL, "owner": EVIL, "warnings": [EVIL], "space": EVIL, "run": EVIL, "page": EVIL}
    service.sweeps["synthetic-1"] = {**sweep(state="running"), **said}
    service.answers["GET", "/v1/sweeps/synthetic-1/best"] = 200, "application/json", json.dumps({"a": EVIL}).encode()
    advice = [{"objective": EVIL, "message": EVIL, "recommendations": [], "text": EVIL}]
    service.answers["GET", "/v1/sweeps/synthetic-1/recommendation"] = (
        200,
        "application/json",
        json.dumps(advice).encode(),
    )
    problem = {"title": EVIL, "status": 404, "detail": EVIL}
    service.answers["GET", "/v1/sweeps/other"] = 404, "application/problem+json", json.dumps(problem).encode()

    def end() -> None:
        service.sweeps["synthetic-1"].update(state="failed")

    service.streams.append(
        [event(1, "state", state=EVIL, reason=EVIL), event(2, "verdict", message=EVIL, optimum=1.0), end,
         event(3, "state", state="failed", reason=EVIL)]
    )  # fmt: skip
    names = {"ID": "synthetic-1", "OTHER": "other"}
    argv = [names.get(part, part) for part in command]
    main([*argv, "--server", service.url, *(["--json"] if as_json else [])])
    found = capsys.readouterr()
    assert found.out or found.err
    assert not [c for c in BAD if c in found.out + found.err]
    if as_json and found.out:
        json.loads(found.out)
