"""Language models from the command line: bad input gets one sentence, and a sweep gives per-token scores."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from sweeper.cli.main import main
from tests.unit.trainables.datasets.text.test_tokenizer import make_tokenizer

QUICK = ("--smoke", "--runner", "inline", "--trials", "1", "--measure", "0")
WORDS = "dataset_options={path: a.txt, tokenizer: words, context: 4, val_share: 0.2, test_share: 0.2}"
BAD = {
    "no tokenizer": (
        ("dataset=text", "dataset_options={path: a.txt, tokenizer: .}"),
        "has no tokenizer.json; save one by",
    ),
    "an empty tokenizer": (
        ("dataset=text", "dataset_options={path: a.txt, tokenizer: ''}"),
        "tokenizer must be bytes or a folder",
    ),
    "a short text": (
        ("dataset=text", "dataset_options={path: a.txt, context: 4000}"),
        "which is less than one window of context 4000",
    ),
    "less than a batch": (
        ("dataset=text", "dataset_options={path: a.txt, context: 500, val_share: 0.3, test_share: 0.3}"),
        "batch_size must be <= the",
    ),
    "a long context": (("model_options={context: 8}",), "context must be at most that of the model, 8 tokens, got 16"),
    "a hub name": (("model=hf:owner/name", "model_options={}"), "set --download for a hub name"),
    "another vocabulary": (
        ("dataset=text", WORDS, "model=hf:SAVED", "model_options={}"),
        "has a vocabulary of 3 tokens, the tokenizer",
    ),
    "an augmentation": (("augmentation=mixup",), "augmentation must be none for text, got 'mixup'"),
    "no such file": (("dataset=text", "dataset_options={path: b.txt}"), "b.txt does not exist"),
}


def _run(tmp_path: Path, *settings: str) -> int:
    words = [word for setting in settings for word in ("--set", setting)]
    return main(["run", "shakespeare_gpt", *QUICK, "--data", str(tmp_path), "--out", str(tmp_path / "run"), *words])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    from trainables.models.registry import build

    (tmp_path / "a.txt").write_text("the king the queen " * 180)
    make_tokenizer(tmp_path / "words")
    options = {"layers": 1, "heads": 1, "width": 4}
    build("gpt", 3, 4, 1, options, text={"length": 4}).save_pretrained(tmp_path / "saved")
    return tmp_path


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_sentence_before_anything_is_trained(
    case: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, message = BAD[case]
    assert _run(folder, *(s.replace("SAVED", str(folder / "saved")) for s in settings)) == 2
    error = capsys.readouterr().err
    assert message in " ".join(error.split())
    assert "Traceback" not in error
    assert not list((folder / "run").glob("trials/*"))


def test_without_the_extra_its_name_is_given(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert _run(folder) == 2
    assert "pip install 'sweeper[text]'" in " ".join(capsys.readouterr().err.split())


def test_scores_of_text_are_shown_per_token(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(folder, "learning_rate=0.01") == 0
    said = capsys.readouterr().out
    assert "bits per byte" in said
    assert main(["best", str(folder / "run"), "--json"]) == 0
    best = json.loads(capsys.readouterr().out)
    merged = best["test"]["merged"]["loss"] if "test" in best else best["best"]["test"]["merged"]["loss"]
    assert 0 < merged < 6
    assert main(["best", str(folder / "run")]) == 0
    shown = capsys.readouterr().out
    assert "perplexity" in shown
    assert "loss [nat/token]" in shown
    page = (folder / "run" / "dashboard.html").read_text()
    assert "bits per byte" in page
