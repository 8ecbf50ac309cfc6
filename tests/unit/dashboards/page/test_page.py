import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from markupsafe import escape
from plotly.offline import get_plotlyjs_version

from dashboards.page import page as page_module
from dashboards.page.html import read_asset
from dashboards.page.page import PLOTLY, build_sections, read_run, write_and_judge, write_page
from dashboards.views import VIEWS
from sweeper.analysis.regime import fit_regime
from sweeper.analysis.summary import summarize_sweep
from sweeper.storage import tables
from sweeper.storage.tables import read_trials
from tests.support.fake_sweep import search_row, trial, write_sweep
from trainables.result import trial_columns

DATA = re.compile(r'<script type="application/json" id="plot-([a-z_]+)-data">(.*?)</script>', re.S)


@pytest.fixture(scope="module")
def page(run, tmp_path_factory):
    return write_page(run, tmp_path_factory.mktemp("page") / "new" / "page.html")


def _text(page) -> str:
    text = page.read_text(encoding="utf-8")
    # all but plotly.js and the figures
    return re.sub(r"<script.*?</script>", "", text, flags=re.S)


def test_the_page_is_one_file_with_plotly_once_and_every_figure(run, page):
    text = page.read_text(encoding="utf-8")
    charts = [chart.key for _, section in build_sections(read_run(str(run))).values() for chart in section.every_chart]
    assert [name for name, _ in DATA.findall(text)] == charts
    assert {"gain_mean", "parents", "collapse", "curves", "progress"} <= set(charts)
    assert re.findall(r'<section class="view" id="(\w+)"><h2>', text) == list(VIEWS)
    assert re.findall(r'<a href="#(\w+)">', text) == list(VIEWS)
    assert all(json.loads(data)["data"] for _, data in DATA.findall(text))
    assert len(re.findall(r"\* plotly\.js \(cartesian - minified\) v\d", text)) == 1
    assert not re.findall(r'(?:src|href)="(?!data:|#)', _text(page))
    assert [p.name for p in page.parent.iterdir()] == ["page.html"]


def test_one_analysis_serves_the_page_and_the_answer(run, tmp_path, monkeypatch):
    copy = shutil.copytree(run, tmp_path / "run")
    trials, noise = read_trials(copy), "paper"
    known = write_and_judge(copy)
    assert (copy / "dashboard.html").exists()
    again = summarize_sweep(copy, trials, noise)
    monkeypatch.setattr("sweeper.analysis.posterior.fit_posterior", None)
    monkeypatch.setattr("sweeper.analysis.scorecard.answer.find_analysis", None)
    assert summarize_sweep(copy, trials, noise, known.believed, known.analysis) == again


def test_the_same_run_gives_the_same_page(run, page, tmp_path):
    assert write_page(run, tmp_path / "b.html").read_bytes() == page.read_bytes()


def test_the_page_says_optimum_interval_counts_and_the_best_merge(page, trials):
    text = _text(page)
    regime = fit_regime(trials, "gain_mean", "paper")
    assert f"{regime.optimum:.3g}" in text
    assert f"90 % interval {regime.low:.3g} to {regime.high:.3g}" in text
    best = max((r for r in trials.to_pylist() if r["outcome"] == "ok"), key=lambda r: r["gain_mean_loss_val"])
    assert f"{best['chosen_loss_test']:.3g}" in text
    assert f"{100 * best['chosen_accuracy_test']:.1f} %" in text
    assert "60 of 60" in text
    assert "57 ok, 3 diverged" in text
    assert "150 s" in text
    assert "Synthetic" not in text


@pytest.mark.parametrize(("repeats", "title", "done"), [(1, "Trials", "2 of 2"), (2, "Configurations", "2 of 2")])
def test_the_tile_counts_what_the_budget_counts(tmp_path, repeats, title, done):
    run = write_sweep(tmp_path / "run", trials=2, budget=2, repeats=repeats)
    tile = next(t for t in build_sections(read_run(run))["overview"][1].tiles if t.title == title)
    assert tile.value == done
    assert ("4 trials" in tile.context) == (repeats == 2)


def test_a_closed_form_is_called_one(tmp_path):
    page = write_page(write_sweep(tmp_path / "run", trials=2, budget=2, trainable="synthetic"))
    assert page == tmp_path / "run" / "dashboard.html"
    assert "Synthetic closed form: no network was trained." in _text(page)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_an_unfinished_run_says_what_is_not_known(tmp_path, count):
    text = _text(write_page(write_sweep(tmp_path / "run", trials=count, budget=40)))
    assert ("not determined" in text) == (count > 0)
    verb = "has" if count == 1 else "have"
    assert (f"{count} of 40 trials {verb} a result" in text) == (count > 0)
    assert text.count("No trial has finished yet") == (6 if count == 0 else 0)


def test_a_run_of_diverged_trials_only(tmp_path):
    for number in range(8):
        tables.write(tmp_path, trial(number, outcome="diverged", scores={}))
    text = write_page(tmp_path).read_text(encoding="utf-8")
    assert "No trial is ok so far" in text
    assert "no readable sweep.yaml" in text
    figure = json.loads(dict(DATA.findall(text))["merged_loss"])
    assert sum(len(t["x"]) for t in figure["data"] if t.get("name") == "diverged") == 8


@pytest.mark.parametrize("objective", ["gain_best", "barrier", "merged_accuracy"])
def test_any_objective_gets_its_own_figure(tmp_path, objective):
    run = write_sweep(tmp_path / "run", trials=10, budget=10)
    (run / "sweep.yaml").write_text(yaml.safe_dump({"objective": objective, "noise": "wd_equilibrium", "trials": 10}))
    text = write_page(run).read_text(encoding="utf-8")
    assert objective in dict(DATA.findall(text))
    assert "√(ηλ/(B(1−μ)))" in _text(run / "dashboard.html")


def test_names_from_files_are_escaped(tmp_path):
    run = write_sweep(tmp_path / "run", trials=3, outcome_detail="</script><script>alert(1)</script>")
    (run / "sweep.yaml").write_text(yaml.safe_dump({"space": "<script>alert(2)</script>", "noise": "<b>", "trials": 3}))
    text = write_page(run).read_text(encoding="utf-8")
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(2)" in text
    assert "&lt;b&gt;" in text


def test_a_corrupt_part_is_named_on_the_page_and_warned_of(tmp_path):
    run = write_sweep(tmp_path / "run", trials=3, budget=3)
    (run / "trials" / "bad.parquet").write_bytes(b"no parquet")
    with pytest.warns(tables.SkippedPart, match=r"bad\.parquet"):
        page = write_page(run)
    assert "bad.parquet" in _text(page)
    assert "3 of 3" in _text(page)


def test_the_command_for_a_firm_answer_needs_no_flags_for_the_sweeps_own(tmp_path):
    run = write_sweep(tmp_path / "a run", trials=8)
    (run / "sweep.yaml").write_text("space: synthetic\nobjective: merged_loss\ntrials: 8\n")
    assert f"<code>sweeper extend &#39;{run}&#39;</code> runs" in _text(write_page(run))


def test_no_run_no_page(tmp_path):
    with pytest.raises(NotADirectoryError, match="run folder"):
        write_page(tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_the_old_page_and_no_leftovers(tmp_path, monkeypatch):
    run = write_sweep(tmp_path / "run", trials=1, budget=1)
    old = write_page(run).read_bytes()
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(PermissionError("no")))
    with pytest.raises(OSError, match=r"dashboard\.html: no"):
        write_page(run)
    assert (run / "dashboard.html").read_bytes() == old
    assert [p.name for p in run.iterdir() if p.name.startswith(".dash")] == []


def test_sixty_trials_take_little_room(page):
    assert page.stat().st_size < 2_000_000


def test_the_embedded_plotly_is_the_version_that_the_package_expects():
    head = read_asset(PLOTLY)[:200]
    assert f"plotly.js (cartesian - minified) v{get_plotlyjs_version()}" in head
    assert "MIT" in (Path(page_module.__file__).parent / "vendor" / "plotly-cartesian.LICENSE").read_text()


def test_every_figure_draws_traces_that_the_embedded_plotly_has(page):
    kinds = {t.get("type", "scatter") for _, data in DATA.findall(page.read_text()) for t in json.loads(data)["data"]}
    assert kinds <= {"scatter", "contour", "heatmap", "bar", "histogram", "box"}


def test_heads_carry_the_schemas_words(page):
    text = _text(page)
    docs = {c.name: c.doc for c in trial_columns()}
    for name in ("learning_rate", "weight_decay", "ensemble_loss_test"):
        assert escape(docs[name]) in text


def test_recommended_hyperparameters_reach_the_best_noise(page, trials):
    rows = re.search(r'id="learning-rates"><summary>.*?<tbody>(.*?)</tbody>', _text(page), re.S)
    assert rows
    table = [re.findall(r"<td[^>]*>(.*?)</td>", r) for r in rows.group(1).split("</tr>")]
    optimum = fit_regime(trials, "gain_mean", "paper").optimum
    for batch_size, learning_rate, _, momentum, *_ in filter(None, table):
        assert float(learning_rate) / float(batch_size) / (1 - float(momentum)) == pytest.approx(optimum, rel=1e-2)
    assert len(table) > 3


def test_the_card_has_the_answers_notes(tmp_path, monkeypatch):
    run = write_sweep(tmp_path / "a run", trials=12, budget=12)
    (run / "sweep.yaml").write_text(yaml.safe_dump({"space": "digits_label_noise", "objective": "gain_mean"}))
    remark = "momentum lies at the upper end: a wider range may help", "for that one: sweeper recommend X"
    monkeypatch.setattr("dashboards.views.answer.find_remarks", lambda *_: remark)
    card = re.search(r'id="use">.*?</article>', _text(write_page(run)), re.S).group()
    assert "Momentum lies at the upper end: a wider range may help." in card
    assert "For that one: <code>sweeper recommend X</code>." in card


def test_a_configuration_with_a_diverged_repeat_does_not_win(tmp_path):
    for number in range(3):
        tables.write(tmp_path, trial(number))
    best = max(read_trials(tmp_path).to_pylist(), key=lambda r: r["gain_mean_loss_val"])["number"]
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump({"objective": "gain_mean"}))
    first = r'id="best".*?<tbody><tr><td[^>]*>(?:★ )?1</td><td[^>]*>(\d+)</td>'
    assert re.search(first, _text(write_page(tmp_path)), re.S).group(1) == str(best)
    tables.write(tmp_path, trial(best, repeat=1, outcome="diverged", scores={}))
    assert re.search(first, _text(write_page(tmp_path)), re.S).group(1) != str(best)


def test_search_thoughts_are_optional(tmp_path):
    run = write_sweep(tmp_path / "run", trials=4, budget=4)
    assert search_row(0).optimum is None
    shutil.rmtree(run / "search")
    text = write_page(run).read_text(encoding="utf-8")
    assert "the sampler gave no estimate" in text
