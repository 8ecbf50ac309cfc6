"""Sweeps over tasks and of language models on a service over HTTP, with real processes of the sweeps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sweeper.cli.main import main
from sweeper.client import Client, ClientError
from sweeper.client.models import State
from trainables.result import SPLITS

pytestmark = pytest.mark.service

SMALL: dict[str, Any] = {"smoke": True, "runner": "inline", "sampler": "random", "repeats": 1}
WAIT = 600.0


@pytest.fixture(autouse=True)
def _known(served: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEPER_SERVER", served)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def test_three_tasks_run_and_resume_on_a_service(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fixed = {"merges": ["linear", "task_arithmetic"], "accuracy_floor": 0.0, "epochs": 1, "base.steps": 40}
    with Client() as client:
        sent = client.submit({"space": "image_tasks", "trials": 1, "fixed": fixed, **SMALL})
        ended = client.wait(sent.id, WAIT)
        assert ended.state == State.DONE, ended.reason
        (first,) = client.trials(sent.id).to_pylist()
        assert first["outcome"] == "ok", first["outcome_detail"]
        shares = [first[f"chosen_normalised_accuracy_{task}_{split}"] for task in "abc" for split in SPLITS[1:]]
        assert all(share is not None and 0.5 < share < 1.5 for share in shares), shares
        assert all(first[f"{task}_accuracy_test"] is not None for task in "abc")
        # a resume continues the same design, and keeps the trial as it was
        client.resume(sent.id, trials=2)
        ended = client.wait(sent.id, WAIT)
        assert ended.state == State.DONE, ended.reason
        rows = client.trials(sent.id).to_pylist()
        assert [r["number"] for r in rows] == [0, 1]
        assert rows[0] == first
        assert rows[1]["outcome"] == "ok", rows[1]["outcome_detail"]
        assert client.best(sent.id)["digest"] in {r["digest"] for r in rows}
        with pytest.raises(ClientError, match="is no language model, so it has no folder"):
            client.save_model(sent.id, tmp_path / "folder")
    for command in (["status"], ["list"], ["best", "--save", str(tmp_path / "w.safetensors")]):
        assert main([command[0], sent.id, *command[1:]]) == 0
    assert "`c/`: task c" in (tmp_path / "w.md").read_text()
    assert (tmp_path / "w.safetensors").stat().st_size > 1000
    capsys.readouterr()


def test_a_language_model_comes_as_a_folder_and_as_an_adapter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from peft import PeftModel

    from tests.support.model_folders import load

    with Client() as client:
        sent = client.submit({"space": "text_lora", "trials": 1, **SMALL})
        ended = client.wait(sent.id, WAIT)
        assert ended.state == State.DONE, ended.reason
        assert client.save_model(sent.id, tmp_path / "whole") is None
    merged = load(tmp_path / "whole").state_dict()
    capsys.readouterr()
    assert main(["best", sent.id, "--save", str(tmp_path / "adapter"), "--rank", "8", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert record["discarded"] < 1e-6
    assert Path(record["card"]).read_text().count("adapter") > 1
    base = load(tmp_path / "adapter" / "base")
    found = PeftModel.from_pretrained(base, tmp_path / "adapter").merge_and_unload().state_dict()
    assert all((merged[k] - v).abs().max() < 1e-5 for k, v in found.items())
