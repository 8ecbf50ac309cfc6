"""One sweep, every output: what stands in more than one place is the same number there."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from dashboards.data.selection import Selection
from dashboards.page.page import read_run
from dashboards.views import VIEWS, overview
from dashboards.views.verdicts import judge
from sweeper.cli.main import main
from sweeper.cli.remote.output import emit_status, sweep_table
from sweeper.client import Client
from sweeper.client.models import State
from sweeper.formatting import number, plain_text
from sweeper.service.db.sweeps import Catalog, NewSweep
from sweeper.service.views.events import Hub
from sweeper.service.views.views import Views
from sweeper.storage.run_folder import stored_spec
from tests.support.databases import opened
from tests.support.inline_sweeps import sweep

ASKED = ("--objective", "gain_mean", "--noise", "paper")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # eight configurations of the closed form are repeated by nobody: the answer asks for more
    return Path(sweep(tmp_path_factory.mktemp("same") / "run", sampler="qmc", trials=32, objective="gain_mean").run)


@pytest.fixture(scope="module")
def page(run: Path) -> dict[str, Any]:
    found, selection = read_run(str(run)), Selection(metric="gain_mean")
    asked = overview.choose_question(found, selection)
    assert asked is not None
    judge(found, asked)  # where a test has left an app running, views would wait for the background
    return {name: VIEWS[name].build(found, selection) for name in ("overview", "collapse")}


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[Any, str]:
    """Return the record and the text of a command, on one line."""
    assert main([*argv, "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert main([*argv]) == 0
    return record, " ".join(capsys.readouterr().out.split())


def test_the_best_noise_with_its_interval(run: Path, page: Any, capsys: pytest.CaptureFixture[str]) -> None:
    analysed, text = said(capsys, "analyse", str(run), *ASKED)
    regime = analysed["sweeps"][str(run)]["regime"]
    best, status = said(capsys, "best", str(run)), said(capsys, "status", str(run))
    advice = said(capsys, "recommend", str(run), "--objective", "gain_mean", "--by-noise")
    for key in ("optimum", "low", "high", "edge_share", "moved", "message"):
        assert best[0]["regimes"]["gain_mean"][key] == regime[key]
    assert status[0]["regimes"]["gain_mean"] == advice[0]["noise_matched"]["gain_mean"]["message"] == regime["message"]
    interval = f"90 % interval {number(regime['low'])} to {number(regime['high'])}"
    tile = next(t for t in page["overview"].tiles if t.title.startswith("Best noise"))
    assert tile.value == number(regime["optimum"])
    for shown in (text, best[1], status[1], advice[1], tile.context, page["overview"].verdicts[0]):
        assert interval in shown


def test_the_verdict_in_one_word(run: Path, page: Any, capsys: pytest.CaptureFixture[str]) -> None:
    word = page["overview"].hero.badge.word
    # without options each command judges the sweep's own objective and noise
    analysed, text = said(capsys, "analyse", str(run))
    best, status = said(capsys, "best", str(run)), said(capsys, "status", str(run))
    record = analysed["sweeps"][str(run)]
    assert (record["objective"], record["noise"]) == ("gain_mean", "paper")
    assert "judged: objective gain_mean, noise paper, on validation" in text
    assert best[0]["answer"]["verdict"] == status[0]["verdict"] == word
    assert best[0]["answer"]["reason"] == status[0]["reason"]
    for shown in (text, best[1], status[1]):
        assert re.match(rf"{word}\b", shown)


def test_the_definition_that_ranks_first(run: Path, page: Any, capsys: pytest.CaptureFixture[str]) -> None:
    best, status = (
        said(capsys, "best", str(run), "--noise", "linear"),
        said(capsys, "status", str(run), "--noise", "linear"),
    )
    ranked = said(capsys, "analyse", str(run), "--noise", "linear")[0]["sweeps"][str(run)]["ranking"]["rows"]
    assert ranked[0]["name"] != "linear"
    for record, text in (best, status):
        assert (record["preferred"]["noise"], record["preferred"]["r2"]) == (ranked[0]["name"], ranked[0]["r2"])
        assert record["preferred"]["sentence"] in text
    assert said(capsys, "status", str(run))[0]["preferred"] is None


def test_r2_of_left_out_configurations(run: Path, page: Any, capsys: pytest.CaptureFixture[str]) -> None:
    analysed, text = said(capsys, "analyse", str(run), *ASKED)
    record = analysed["sweeps"][str(run)]
    r2 = record["explained"]["r2"]
    row = next(r for r in record["ranking"]["rows"] if r["name"] == "paper")
    assert (row["r2"], row["beyond"]) == (r2, record["explained"]["beyond"])
    assert record["explained"]["n_configs"] == record["ranking"]["n"]
    collapse = page["collapse"]
    assert f"R² of left-out configurations of paper: {number(r2)}" in text
    assert f"by the noise paper: {number(r2)} (n = {record['ranking']['n']})" in collapse.verdicts[0]
    cells = {c[0].text: c[1].text for c in collapse.tables[0].table.rows}
    assert cells["paper"] == number(r2)
    assert f"R² {number(r2)}" in [a.text for a in collapse.charts[0].figure.layout.annotations]
    # the same sentences on the page as in the terminal, in the same words
    sentences = [c[0].text for t in page["overview"].tables if t.key == "evidence" for c in t.table.rows]
    assert [s.lower() for s in sentences] == [s.lower() for s in record["sentences"][1:]]


def test_the_number_of_further_trials(run: Path, page: Any, capsys: pytest.CaptureFixture[str]) -> None:
    analysed, text = said(capsys, "analyse", str(run), *ASKED)
    dry, plan = said(capsys, "extend", str(run), "--dry-run", *ASKED)
    count = len(dry["planned"])
    assert count > 0
    assert analysed["sweeps"][str(run)]["further_trials"] == count
    assert f"runs {count} further trial" in text
    assert f"{count} further trials; nothing was run" in plan
    (shown,) = re.findall(r"runs (\d+) further trial", " ".join(page["overview"].verdicts))
    assert int(shown) == count


def test_the_winner_is_the_posteriors_in_every_list_and_event(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dashboards.app.sweep_list import make_table

    run = str(sweep(tmp_path / "run", sampler="noise", trials=24, objective="gain_mean", seed=3, confirm=0).run)
    winner, text = said(capsys, "best", run)
    local, status = said(capsys, "status", run)
    spec = stored_spec(run).model_copy(update={"out": None}).dump_explicit()
    views = Views(Catalog(opened(tmp_path)), Hub(), lambda _: run)
    entry, _ = views.catalog.add(NewSweep("ann", "synthetic", spec, 24, 24))
    for state in (State.STARTING, State.RUNNING):
        entry = views.catalog.move(entry.id, state, "")
    views.follow([entry])
    (published,) = [e.data for e in views.hub.since(0, entry.id) if e.type == "best"]
    entry = views.catalog.move(entry.id, State.DONE, "")
    views.conclude(entry)
    detail = views.detail(views.catalog.get(entry.id))
    assert detail.best is not None
    shown = detail.best.model_dump(mode="json")
    assert shown == local["best"] == published
    assert local["best"]["posterior_mean"] is not None
    assert local["best"]["undecided"] == ""
    for key in ("digest", "config", "posterior_mean", "posterior_sd"):
        assert local["best"][key] == winner["best"][key]
    assert local["best"]["value"] == winner["best"]["config_mean"]
    record = detail.model_dump(mode="json", exclude={"cost": {"wall_seconds"}})
    del local["cost"]["wall_seconds"]  # only a service measures it
    for key in ("progress", "cost", "regime", "warnings"):
        assert record[key] == local[key]
    chosen = f"by the posterior mean, {number(shown['posterior_mean'])}"
    assert chosen in text
    assert chosen in status
    emit_status(False, Client("http://127.0.0.1:1"), detail)
    assert chosen in " ".join(capsys.readouterr().out.split())
    assert plain_text(shown["value"]) in sweep_table([detail])
    assert number(shown["value"]) in str(make_table([detail], Selection(), detail.created))
