"""Weights & Biases offline: files without an account and without a network; online needs an account."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweeper.cli.main import main
from tests.support.inline_sweeps import sweep


@pytest.fixture(autouse=True)
def _no_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [n for n in os.environ if n.startswith("WANDB_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nothing listens there
    yield
    import wandb

    wandb.teardown()  # it reads the environment once


def test_an_offline_sweep_writes_one_run_for_each_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    results = sweep(tmp_path / "demo", trials=2, track="wandb")
    digests = results.trials["digest"].to_pylist()
    folder = tmp_path / "demo" / "wandb"
    assert sorted(p.name for p in (folder / "tracked").iterdir()) == sorted(digests)
    paths = list(folder.glob("offline-run-*/run-*.wandb"))  # `latest-run` links to one of them
    files = {p.name.removeprefix("run-").partition("-")[0]: p.read_bytes() for p in paths}
    assert sorted(files) == sorted(digests)
    for row in results.trials.to_pylist():
        data = files[row["digest"]]
        number = f"{row['number']:05d}-{row['digest'][:8]}".encode()
        texts = [b"demo/" + number, b"learning_rate", b"sweeper", row["outcome"].encode()]
        scores = [b"merged_loss_val", b"training_a/val_loss"] if row["outcome"] == "ok" else []
        assert [t for t in texts + scores if t not in data] == []
        assert str(tmp_path).encode() not in data  # nothing about the machine
    sweep(tmp_path / "demo", trials=2, track="wandb")
    assert len(list(folder.glob("offline-run-*/run-*.wandb"))) == 2


def test_online_tracking_needs_an_account(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    command = ["run", "synthetic", "--runner", "inline", "--trials", "2", "--out", str(out), "--track", "wandb"]
    assert main(command) == 2
    expected = "error: track wandb needs an account: run `wandb login`, or set WANDB_MODE=offline to write files only\n"
    assert capsys.readouterr().err == expected
    assert not out.exists()
