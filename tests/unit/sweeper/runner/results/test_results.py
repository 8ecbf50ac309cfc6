"""Results in Python and in notebooks: HTML, figures, and the best merge as a module."""

import json
import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import torch

import sweeper
from sweeper import SpecError, SweepSpec, load_results
from sweeper.cli.main import main
from sweeper.formatting import number
from sweeper.runner.results.notebook import format_results
from tests.support.fake_sweep import write_sweep
from tests.support.inline_sweeps import sweep
from tests.support.model_folders import load


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("results") / "run"
    settings = {"epochs": 1, "base.steps": 20, "accuracy_floor": 0.0}
    spec = SweepSpec(space="digits_cnn", runner="inline", sampler="random", trials=2, out=str(out), fixed=settings)
    sweeper.run(spec)
    return out


@pytest.mark.data
def test_the_best_model_has_the_kept_weights_and_the_same_when_trained_again(trained: Path) -> None:
    from safetensors.torch import load_file

    results = load_results(trained)
    best = results.best
    assert best is not None
    kept = trained / "weights" / f"{best['digest']}.safetensors"
    model, stored = results.best_model(), load_file(kept)
    assert not model.training
    assert set(model.state_dict()) == set(stored)
    assert all(torch.equal(value, stored[name]) for name, value in model.state_dict().items())
    kept.unlink()
    again = results.best_model()
    assert all(torch.equal(value, stored[name]) for name, value in again.state_dict().items())
    assert not kept.exists()
    with torch.no_grad():
        assert model(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def test_the_best_language_model_becomes_a_folder_or_an_adapter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    spec = SweepSpec(space="text_lora", smoke=True, runner="inline", sampler="random", trials=1, out=str(out))
    results = sweeper.run(spec)
    assert results.save_model(tmp_path / "merged") is None
    merged, best = load(tmp_path / "merged").state_dict(), results.best_model().state_dict()
    assert all(torch.equal(value, best[name]) for name, value in merged.items())
    discarded = results.save_model(tmp_path / "adapter", rank=8)
    assert discarded is not None
    assert discarded < 1e-6
    assert (tmp_path / "adapter" / "base" / "config.json").is_file()
    with pytest.raises(SpecError, match=r"cannot be saved: .*merged exists; choose another folder"):
        results.save_model(tmp_path / "merged")
    best = ["best", str(out), "--save"]
    assert main([*best, str(tmp_path / "same")]) == 0
    names = {p.name for p in (tmp_path / "same").iterdir()}
    assert {"README.md", "config.json", "model.safetensors"} <= names
    assert (tmp_path / "same" / "model.safetensors").read_bytes() == (
        tmp_path / "merged" / "model.safetensors"
    ).read_bytes()
    text = (tmp_path / "same" / "README.md").read_text()
    assert "| validation perplexity | test perplexity |" in text
    assert "model = AutoModelForCausalLM.from_pretrained('same')" in text
    assert "A token is a byte of the text." in text
    capsys.readouterr()
    assert main([*best, str(tmp_path / "small"), "--rank", "1", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert 0 < record["discarded"] < 1
    assert record["card"] == str(tmp_path / "small" / "README.md")
    assert "base = AutoModelForCausalLM.from_pretrained('small/base')" in Path(record["card"]).read_text()
    assert main([*best, str(tmp_path / "one.safetensors")]) == 0  # a name of a file gets a file
    assert (tmp_path / "one.safetensors").is_file()
    assert main([*best, str(tmp_path / "two.safetensors"), "--rank", "1"]) == 2
    assert "--rank needs a folder of a language model as --save" in capsys.readouterr().err
    assert main(["best", str(out), "--rank", "1"]) == 2
    assert "--rank is for --save" in capsys.readouterr().err


@pytest.mark.data
def test_the_best_model_of_several_tasks_has_the_head_of_one(tmp_path: Path) -> None:
    fixed = {"epochs": 1, "accuracy_floor": 0.0, "merges": ["linear"], "base.steps": 5}
    spec = SweepSpec(
        space="image_tasks", smoke=True, runner="inline", sampler="random", trials=1, out=str(tmp_path / "run"),
        fixed=fixed,
    )  # fmt: skip
    results = sweeper.run(spec)
    heads = [results.best_model(task).state_dict()["head.weight"] for task in "ab"]
    assert not torch.equal(*heads)
    for wrong in (None, "d", "digits"):
        with pytest.raises(SpecError, match=r"task must be one of 'a' \(digits\), 'b' \(digits\), 'c' \(digits\)"):
            results.best_model(wrong)


def test_a_sweep_without_models_has_no_best_model(tmp_path: Path) -> None:
    results = sweep(tmp_path / "run", trials=3)
    with pytest.raises(SpecError, match=r"trial [0-9a-f]{16} trains no models: `sweeper best --save FILE`"):
        results.best_model()


def test_html_shows_verdict_settings_and_the_best_trials(tmp_path: Path) -> None:
    results = sweep(tmp_path / "run", trials=8)
    html = results._repr_html_()
    best = results.best
    assert best is not None
    assert html.startswith('<div><p style="border-left: 6px solid #767c86; padding-left: 8px"><b>Undetermined</b> ')
    assert "8 trials.</p>" in html
    assert "<b>Sure?</b> not confirmed" in html
    assert f"Trial <code>{best['digest']}</code>" in html
    rows = re.findall(r"<tr>(.*?)</tr>", html)
    ok = results.trials["outcome"].to_pylist().count("ok")
    assert len(rows) == 1 + min(ok, 5)
    assert len(html) < 5000


def test_html_has_the_verdict_and_the_confirmed_score_of_the_answer(tmp_path: Path) -> None:
    from sweeper.analysis.scorecard.answer import format_answer

    results = sweep(tmp_path / "run", sampler="noise", trials=40, objective="gain_mean", seed=1)
    answer, html = results.answer, unescape(results._repr_html_())
    assert answer.confirmed > 0
    assert f"<b>{answer.verdict}</b> {answer.reason}. 40 trials." in html
    expected = answer.expected
    assert expected is not None
    text = f"{number(expected.mean)} ± {expected.error:.2g} nat ({answer.confirmed} fresh pairs)"
    assert text in html
    assert text in " ".join(format_answer(answer.record()).split())
    assert answer.certainty in html


def test_html_of_a_sweep_without_trials_says_so(tmp_path: Path) -> None:
    run = write_sweep(tmp_path / "run", trials=0)
    html = load_results(run)._repr_html_()
    assert "<b>Undetermined</b>" in html
    assert "0 trials.</p>" in html
    assert "<table>" not in html
    assert load_results(run).best is None
    with pytest.raises(SpecError, match="needs a viable trial"):
        load_results(run).best_model()


def test_html_escapes_every_text(tmp_path: Path) -> None:
    trials = load_results(write_sweep(tmp_path / "run", trials=8)).trials
    column = trials.schema.get_field_index("digest")
    attack = [f"<img src=x onerror=alert({n})>\x1b[31m" for n in range(trials.num_rows)]
    import pyarrow as pa

    trials = trials.set_column(column, "digest", pa.array(attack))
    winner: dict[str, Any] = {**trials.to_pylist()[0], "config_mean": 1.0}
    answer = replace(load_results(tmp_path / "run").answer, reason="<script>", certainty="<script>")
    html = format_results(trials, "gain_mean", "paper", answer, winner, frozenset())
    assert "<script" not in html
    assert "<img" not in html
    assert "\x1b" not in html
    assert html.count("&lt;img") >= 2


def test_a_figure_of_the_page_is_a_plotly_figure(tmp_path: Path) -> None:
    import plotly.graph_objects as go

    results = load_results(write_sweep(tmp_path / "run", trials=20))
    figure = results.plot()
    assert isinstance(figure, go.Figure)
    assert "against the noise" in figure.layout.title.text
    assert len(figure.data) >= 1
    assert isinstance(results.plot("overview", "parents"), go.Figure)
    with pytest.raises(SpecError, match="unknown view 'overveiw'; did you mean overview"):
        results.plot("overveiw")
    with pytest.raises(SpecError, match="unknown figure 'x'; known: "):
        results.plot("overview", "x")
    with pytest.raises(SpecError, match="has no figure"):
        load_results(write_sweep(tmp_path / "empty", trials=0)).plot()
