"""Each command with `--json` prints what its schema says: all keys, no others, and the version."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from sweeper.cli.commands import jobs
from sweeper.cli.main import main
from sweeper.cli.schemas.registry import OUTPUTS, json_schema
from sweeper.storage.tables import read_trials
from tests.support.model_folders import tiny_llama

DATA = Path(__file__).parents[4] / "data"
RUNS = DATA / "runs-1"
FINISHED, DIGITS = "finished", "digits"

LOCAL: list[tuple[str, str]] = [
    ("best", "run synthetic --runner inline --sampler random --trials 2 --out new"),
    ("best", "resume new --trials 3"),
    *((name, f"{command} {run}") for run in (FINISHED, "pruned", "objectives", "imported")
      for name, command in (("best", "best"), ("status", "status"), ("list", "list"))),
    ("recommend", "recommend finished --batch-size 64"),
    ("analyse", "analyse finished imported"),
    ("analyse", "analyse new --objective merged_loss --noise dose"),
    ("compare", "compare finished objectives imported"),
    ("extend", "extend finished --dry-run"),
    ("extend", "extend new --repeats 1"),
    ("pair", "pair digits DIGEST"),
    ("best", "best digits --save w.safetensors"),
    ("merge", "merge --models w.safetensors w.safetensors --model MODEL --data-set digits --merges linear --out m"),
    ("merge-folders", "merge --models model model --coefficient 0.5 --save merged"),
    ("export", "export finished --table merges"),
    ("export-figures", "export finished --html page.html"),
    ("export-optuna", "export finished --format optuna"),
    ("export-tensorboard", "export finished --format tensorboard"),
    ("import", f"import {DATA / 'digits_pairs.parquet'} --space digits_cnn --out table"),
    ("compact", "compact finished"),
    ("spaces", "spaces"),
    ("noises", "noises"),
    ("merges", "merges"),
    ("token-create", "token create anna --role submitter --root served --quota running=2"),
    ("token-list", "token list --root served"),
    ("token-revoke", "token revoke TOKEN --root served"),
]  # fmt: skip
"""Name of an output, and a command that prints it."""


def validate(name: str, text: str) -> dict[str, Any]:
    """Check a command's output, and return it."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    record = json.loads(text, parse_constant=refuse)
    faults = [f"{e.json_path}: {e.message[:200]}" for e in Draft202012Validator(json_schema(name)).iter_errors(record)]
    assert faults == []
    return record


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with small run folders; the commands run in their order, and later ones read what earlier ones wrote."""
    folder = tmp_path_factory.mktemp("json")
    for name in (FINISHED, "pruned", "objectives", "imported", DIGITS):
        shutil.copytree(RUNS / name, folder / name)
    tiny_llama(folder / "model", 0)
    return folder


@pytest.mark.data
def test_commands_print_what_their_schemas_say(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(place)
    (row,) = [r for r in read_trials(DIGITS).to_pylist() if r["outcome"] == "ok"][:1]
    words = {"DIGEST": row["digest"], "MODEL": row["model"], "TOKEN": ""}
    for name, command in LOCAL:
        argv = [words.get(word, word) for word in command.split()]
        code = main([*argv, "--json"])
        said = capsys.readouterr()
        assert code in (0, 1) if name == "pair" else code == 0, (command, said.err)
        record = validate(name, said.out)
        words["TOKEN"] = record["id"] if name == "token-create" else words["TOKEN"]
    jobs_and_services = {n for n in OUTPUTS if n.startswith("service-")} | {"submit", "job"}
    assert {name for name, _ in LOCAL} == set(OUTPUTS) - jobs_and_services


class FakeServer:
    """Job server with one job, which has ended."""

    address = "http://head:8265"
    submitted = False

    def job(self, name: str) -> dict[str, Any] | None:
        if not self.submitted and name != "done":
            return None
        return {
            "submission_id": name,
            "status": "SUCCEEDED",
            "driver_exit_code": 0,
            "start_time": 1000,
            "end_time": 2000,
            "metadata": {"sweeper_out": "s3://bucket/run"},
            "message": "Job finished successfully.",
        }

    def logs(self, name: str) -> str:
        return "a line\nanother\n"

    def upload(self, data: bytes) -> str:
        return "gcs://package.zip"

    def submit(self, *arguments: Any) -> None:
        self.submitted = True


def test_jobs_print_what_their_schemas_say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(jobs, "_connect", lambda args: FakeServer())
    for name, command in (
        ("submit", "submit synthetic --out s3://bucket/run"),
        ("job", "status done --address http://head:8265"),
        ("job", "status done --address http://head:8265 --follow"),
        ("job", "stop done --address http://head:8265"),
    ):
        assert main([*command.split(), "--json"]) == 0, capsys.readouterr().err
        validate(name, capsys.readouterr().out)


@pytest.mark.parametrize("name", list(OUTPUTS))
def test_a_schema_is_one_and_describes_every_key(name: str) -> None:
    schema = json_schema(name)
    Draft202012Validator.check_schema(schema)
    assert schema["properties"]["schema_version"]["const"] == 1
    assert schema["description"]
    for part in (schema, *schema.get("$defs", {}).values()):
        for key, field in part.get("properties", {}).items():
            assert field.get("description") or "$ref" in json.dumps(field), key
        if "properties" in part and name != "list":
            assert part["additionalProperties"] is False


def test_a_further_key_and_a_missing_one_are_faults() -> None:
    record = {"schema_version": 1, "run": "a", "parts": {"trials": 3}}
    assert validate("compact", json.dumps(record)) == record
    for wrong in ({**record, "more": 1}, {"schema_version": 1, "run": "a"}, {**record, "schema_version": 2}):
        with pytest.raises(AssertionError):
            validate("compact", json.dumps(wrong))
