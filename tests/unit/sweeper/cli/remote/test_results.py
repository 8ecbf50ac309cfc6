"""Results of a service: downloads, settings and records of a finished sweep."""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from sweeper.client import Client
from sweeper.client.archive import pack_folder
from sweeper.formatting import show_path
from tests.support.fake_service import FakeService, sweep
from tests.support.service_answers import BEST, FIRST, WINNER, Sweeper, refused
from tests.support.trial_rows import trial
from trainables.spec import PairSpec

pytestmark = pytest.mark.usefixtures("quick_client")


def _winner(**spec: Any) -> dict[str, Any]:
    settings = {"dataset": "digits", "model": "small_cnn", "learning_rate": 0.1, "batch_size": 8, **spec}
    about = {"digest": "d2", "model": settings["model"], "dataset": "digits", "dataset_b": "", "members": 2}
    about |= {"chosen_merge": "linear", "chosen_coefficient": 0.5, "version": "0.1.0"}
    return trial("c2", 0.03, spec=PairSpec(**settings).to_json(), **about)


def test_results_are_downloaded(service: FakeService, sweeper: Sweeper, tmp_path: Path) -> None:
    service.sweeps["synthetic-1"] = sweep(state="done", best=BEST, spec={"space": "synthetic", "trials": 4})
    service.rows = [_winner()]
    advice = [
        {"objective": "gain_mean", "message": "at 0.01", "recommendations": [{"batch_size": 8}], "text": "a table"}
    ]
    service.answers["GET", f"{FIRST}/best"] = 200, "application/json", json.dumps(WINNER).encode()
    service.answers["GET", f"{FIRST}/recommendation"] = 200, "application/json", json.dumps(advice).encode()
    service.answers["GET", f"{FIRST}/best/weights"] = 200, "application/octet-stream", b"weights"
    code, out, _ = sweeper("best", "synthetic-1", "--save", "w.safetensors")
    assert code == 0
    assert "a table" in out
    assert (tmp_path / "w.safetensors").read_bytes() == b"weights"
    assert "model.load_state_dict(load_file('w.safetensors'))" in (tmp_path / "w.md").read_text()
    assert f"card:                {show_path(tmp_path / 'w.md')}" in out
    code, _, err = sweeper("best", "synthetic-1", "--save", "w", "--rank", "4")
    assert (code, "--rank needs a folder of a language model as --save, got w of model small_cnn" in err) == (2, True)
    code, _, err = sweeper("best", "synthetic-1", "--rank", "4")
    assert (code, "--rank is for --save" in err) == (2, True)
    record = json.loads(sweeper("best", "synthetic-1", "--json")[1])
    assert (record["best"], record["recommendations"]["gain_mean"]["text"]) == (WINNER, "a table")


def test_weights_of_another_winner_are_not_kept(
    service: FakeService, sweeper: Sweeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.sweeps["synthetic-1"] = sweep(state="running", best=BEST, spec={"space": "synthetic", "trials": 4})
    service.rows = [_winner()]
    service.answers["GET", f"{FIRST}/best/weights"] = 200, "application/octet-stream", b"weights"
    winners = iter([WINNER, {**WINNER, "digest": "d3"}])
    monkeypatch.setattr(Client, "best", lambda *_: next(winners))
    code, _, err = sweeper("best", "synthetic-1", "--save", "w.safetensors")
    assert (code != 0, "the winner changed while its weights came; run the command again" in err) == (True, True)
    assert not (tmp_path / "w.safetensors").exists()
    assert not (tmp_path / "w.md").exists()


def test_a_language_model_becomes_a_folder(service: FakeService, sweeper: Sweeper, tmp_path: Path) -> None:
    service.sweeps["synthetic-1"] = sweep(state="done", best=BEST, spec={"space": "synthetic", "trials": 4})
    service.rows = [_winner(model="gpt", dataset="sentences", adapter={"kind": "lora", "r": 2})]
    service.answers["GET", f"{FIRST}/best"] = 200, "application/json", json.dumps(WINNER).encode()
    service.answers["GET", f"{FIRST}/recommendation"] = refused(409, "no optimum yet")
    service.answers["GET", f"{FIRST}/best/weights"] = 200, "application/octet-stream", b"weights"
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "README.md").write_text("card")
    content = io.BytesIO()
    pack_folder(tmp_path / "packed", content)
    discarded = {"Sweeper-Discarded": "0.25"}
    service.answers["GET", f"{FIRST}/best/model"] = 200, "application/x-tar", content.getvalue(), discarded
    code, out, _ = sweeper("best", "synthetic-1", "--save", "merged", "--rank", "1", "--json")
    record = json.loads(out)
    assert (code, record["saved"], record["discarded"]) == (0, str(tmp_path / "merged"), 0.25)
    assert record["card"] == str(tmp_path / "merged" / "README.md")
    assert (tmp_path / "merged" / "README.md").read_text() == "card"
    assert sweeper("best", "synthetic-1", "--save", "again")[1].count("again") == 2
    code, _, err = sweeper("best", "synthetic-1", "--save", "merged")
    assert (code, "merged exists; choose another folder" in err) == (2, True)
    assert sweeper("best", "synthetic-1", "--save", "one.safetensors")[0] == 0
    assert (tmp_path / "one.safetensors").read_bytes() == b"weights"


def test_settings_come_from_the_service(service: FakeService, sweeper: Sweeper) -> None:
    service.sweeps["synthetic-1"] = sweep(state="done", best=BEST)
    advice = [{"objective": "gain_mean", "message": "at 0.01", "recommendations": [], "text": "a table"}]
    found = {"settings": [{"params": {"batch_size": 8}}], "text": "Use these", "formats": {"yaml": "space: s\n"}}
    service.answers["GET", f"{FIRST}/recommendation"] = 200, "application/json", json.dumps(advice).encode()
    service.answers["GET", f"{FIRST}/settings"] = 200, "application/json", json.dumps(found).encode()
    text = sweeper("recommend", "synthetic-1", "--batch-size", "8")[1]
    assert text == "Use these\n"
    text = sweeper("recommend", "synthetic-1", "--batch-size", "8", "--by-noise")[1]
    assert text.startswith("Use these\n\n")
    assert text.endswith("gain_mean: at 0.01\na table\n")
    assert sweeper("recommend", "synthetic-1", "--format", "yaml")[1] == "space: s\n"
    assert json.loads(sweeper("recommend", "synthetic-1", "--json")[1])["noise_matched"] == {}
    record = json.loads(sweeper("recommend", "synthetic-1", "--json", "--by-noise")[1])
    assert record["noise_matched"]["gain_mean"]["text"] == "a table"
    assert record["settings"] == found["settings"]
    several = sweeper("recommend", "synthetic-1", "--format", "yaml", "--batch-size", "8", "--batch-size", "9")
    assert several == (2, "", "error: --format yaml takes one batch size, got 2\n")
    service.answers["GET", f"{FIRST}/settings"] = refused(409, "settings need 6 viable configurations")
    text = sweeper("recommend", "synthetic-1")[1]  # without settings, the values by noise stand in
    assert "a table" in text
    assert "not shown: settings need 6 viable" in text
    assert sweeper("recommend", "synthetic-1", "--format", "torch")[0] == 2
    service.answers["GET", f"{FIRST}/recommendation"] = refused(409, "no optimum yet: 2 trials")
    assert sweeper("recommend", "synthetic-1") == (2, "", "error: settings need 6 viable configurations\n")
    service.answers["GET", f"{FIRST}/settings"] = refused(422, "batch_size must be at most 720")
    assert sweeper("recommend", "synthetic-1") == (2, "", "error: batch_size must be at most 720\n")


def test_json_is_what_the_schemas_say(service: FakeService, sweeper: Sweeper, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.unit.sweeper.cli.schemas.test_registry import validate

    monkeypatch.setenv("CI", "1")
    service.sweeps["synthetic-1"] = sweep(state="done", best=BEST)
    service.answers["GET", f"{FIRST}/best"] = 200, "application/json", json.dumps(WINNER).encode()
    service.answers["GET", f"{FIRST}/recommendation"] = refused(409, "no optimum yet")
    for name, command in (
        ("service-best", "best synthetic-1"),
        ("service-status", "status synthetic-1"),
        ("service-list", "list"),
        ("service-page", "dashboard synthetic-1"),
        ("service-sweep", "stop synthetic-1"),
        ("service-submit", "run synthetic --trials 4 --detach"),
        ("service-estimate", "run synthetic --trials 4 --dry-run"),
    ):
        code, out, err = sweeper(*command.split(), "--json")
        assert code == 0, err
        validate(name, out)
