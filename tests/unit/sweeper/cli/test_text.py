"""Language models from the command line: bad input gets one sentence, and a sweep gives per-token scores."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeper.cli.main import main
from sweeper.storage.tables import read_trials
from tests.unit.trainables.datasets.text.test_tokenizer import make_tokenizer
from trainables.datasets.load import forget

QUICK = ("--smoke", "--runner", "inline", "--trials", "1", "--measure", "0")
WORDS = "dataset_options={path: a.txt, tokenizer: words, context: 4, val_share: 0.2, test_share: 0.2}"
TASKS = ("pair_kind=tasks", "dataset=''", "dataset_options={}")
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
    "a corpus for a tokenizer that the model lacks": (
        ("dataset=text", "dataset_options={path: a.txt, context: 4}", "model=hf:SAVED", "model_options={}"),
        "has a vocabulary of 3 tokens, the tokenizer 'bytes' has 256; set dataset_options.tokenizer to",
    ),
    "the bytes of a model with a tokenizer": (
        ("dataset=text", "dataset_options={path: a.txt, context: 4}", "model=hf:OWN", "model_options={}"),
        "has its own tokenizer, got bytes; set dataset_options.tokenizer=",
    ),
    "a context beyond a folder's": (
        ("dataset=text", WORDS.replace("context: 4", "context: 8"), "model=hf:OWN", "model_options={}"),
        "own' has a context of 4 tokens, got 8; lower dataset_options.context",
    ),
    "an adapter as the model": (
        ("dataset=text", "dataset_options={path: a.txt, context: 4}", "model=hf:ADAPTER", "model_options={}"),
        "must be a whole model, got an adapter; give the model it was trained on",
    ),
    "tasks of two vocabularies": (
        (
            *TASKS,
            "datasets=[{name: text, options: {path: a.txt, tokenizer: words, context: 4}}, "
            "{name: text, options: {path: a.txt, context: 4}}]",
        ),
        "must have one vocabulary, got text 5, text 256 tokens; set their option tokenizer",
    ),
    "tasks of two contexts": (
        (*TASKS, "datasets=[{name: sentences, options: {context: 8}}, {name: sentences, options: {context: 4}}]"),
        "must have one context, got sentences 8, sentences 4 tokens; set their option context",
    ),
    "a task of images": (
        (*TASKS, "datasets=[sentences, digits]"),
        "tasks must all be text or all be images, got text sentences and images digits; choose another of them",
    ),
    "no data set": (("dataset=null",), "dataset must be text, got nothing (null)"),
    "no model": (("model=null",), "model must be text, got nothing (null)"),
    "no schedule": (("noise_schedule={kind: null}",), "noise_schedule.kind must be text, got nothing (null)"),
    "no such file": (("dataset=text", "dataset_options={path: b.txt}"), "b.txt does not exist"),
}


def _run(tmp_path: Path, *settings: str) -> int:
    words = [word for setting in settings for word in ("--set", setting)]
    return main(["run", "shakespeare_gpt", *QUICK, "--data", str(tmp_path), "--out", str(tmp_path / "run"), *words])


def _run_file(tmp_path: Path, *settings: str) -> int:
    lines = [f"  {key}: {value}" for key, _, value in (setting.partition("=") for setting in settings)]
    (tmp_path / "sweep.yaml").write_text("\n".join(["space: shakespeare_gpt", "fixed:", *lines]) + "\n")
    more = ["--data", str(tmp_path), "--out", str(tmp_path / "run")]
    return main(["run", str(tmp_path / "sweep.yaml"), *QUICK, *more])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.txt").write_text("the king the queen " * 180)
    make_tokenizer(tmp_path / "words")
    _save_gpt(tmp_path / "saved", 3, 4)
    _save_gpt(tmp_path / "own", 5, 4)
    make_tokenizer(tmp_path / "own")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    return tmp_path


@pytest.mark.parametrize("run", [_run, _run_file])
@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_sentence_before_anything_is_trained(
    case: str, run: Callable[..., int], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings, message = BAD[case]
    for word in ("SAVED", "OWN", "ADAPTER"):
        settings = [s.replace(word, str(folder / word.lower())) for s in settings]
    assert run(folder, *settings) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not (folder / "run").exists()


LATER: dict[str, tuple[Callable[[Path], object], str]] = {
    "no model": (lambda f: shutil.rmtree(f / "own"), "own' must name a folder of transformers, which does not exist"),
    "no tokenizer": (lambda f: shutil.rmtree(f / "words"), "words does not exist; tokenizer must be absolute or under"),
    "no text": (lambda f: (f / "a.txt").unlink(), "a.txt does not exist; path must be absolute or under the data root"),
    "a short text": (lambda f: (f / "a.txt").write_text("the king"), "which is less than one window of context 4"),
    "less than a batch": (
        lambda f: (f / "a.txt").write_text("the king the queen " * 7), "batch_size must be <= the 4 training examples",
    ),
    "another vocabulary": (lambda f: _save_gpt(f / "own", 3, 4), "has a vocabulary of 3 tokens, the tokenizer"),
    "a short context": (lambda f: _save_gpt(f / "own", 5, 2), "own' has a context of 2 tokens, got 4; lower dataset_"),
}  # fmt: skip


def _save_gpt(folder: Path, vocabulary: int, context: int) -> None:
    from trainables.models.registry import build

    options = {"layers": 1, "heads": 1, "width": 4}
    build("gpt", vocabulary, 4, 1, options, text={"length": context}).save_pretrained(folder)


def test_a_trial_whose_files_changed_is_not_rerun(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    batch = ("batch_size=8", "base={steps: 1, batch_size: 8}", "learning_rate=0.01")
    assert _run(folder, "dataset=text", WORDS, f"model=hf:{folder / 'own'}", "model_options={}", *batch) == 0
    (trial,) = read_trials(folder / "run").to_pylist()
    kept = {name: shutil.copytree(folder / name, folder / f"kept-{name}") for name in ("own", "words")}
    text = (folder / "a.txt").read_text()
    rerun = ["pair", str(folder / "run"), trial["digest"], "--data", str(folder)]
    forget()
    assert main(rerun) == 0
    for case, (change, message) in LATER.items():
        forget()  # another process reads the files anew
        change(folder)
        capsys.readouterr()
        assert main(rerun) == 2, case
        error = capsys.readouterr().err
        assert message in error, case
        assert error.startswith(f"error: trial {trial['digest']} cannot be rerun here: ")
        assert error.count("\n") == 1
        for name, copy in kept.items():
            shutil.copytree(copy, folder / name, dirs_exist_ok=True)
        (folder / "a.txt").write_text(text)


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
