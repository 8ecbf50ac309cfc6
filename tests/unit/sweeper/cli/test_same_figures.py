"""Every output of one run folder shows the same figures."""

import json
from pathlib import Path
from typing import Any

import pytest

from dashboards.data.selection import Selection
from dashboards.page.page import read_run
from dashboards.views import overview, search
from dashboards.views.verdicts import judge
from sweeper.cli.main import main
from tests.support.inline_sweeps import PLAIN, sweep


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("figures") / "run"
    sweep(folder, objective="gain_mean", trials=40, seed=3, **PLAIN)
    return folder


def ask(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_one_run_folder_has_one_set_of_figures(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(run)
    status, best = ask(capsys, "status", folder), ask(capsys, "best", folder)
    analysis = ask(capsys, "analyse", folder)["sweeps"][folder]
    for name in ("optimum", "low", "high"):
        assert status["regime"][name] == best["regimes"]["gain_mean"][name] == analysis["regime"][name]
    assert status["regimes"]["gain_mean"] == best["regimes"]["gain_mean"]["message"]
    assert status["best"]["digest"] == best["best"]["digest"]
    assert status["best"]["posterior_mean"] == best["best"]["posterior_mean"]


def test_exponents_come_from_one_source(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = str(run)
    shown, found = ask(capsys, "status", folder)["exponents"], ask(capsys, "analyse", folder)["sweeps"][folder]
    estimated = found["exponents"]
    assert shown["source"] == "trials"
    assert "designed" in shown["words"]
    assert [f["fitted"] for f in shown["factors"]] == list(estimated["value"].values())
    ends = [None if k == estimated["unit_knob"] else [estimated["low"][k], estimated["high"][k]]
            for k in estimated["value"]]  # fmt: skip
    assert [f["interval"] for f in shown["factors"]] == ends
    assert main(["status", folder]) == 0
    assert shown["words"].split(":")[0] in " ".join(capsys.readouterr().out.split())
    read = read_run(folder)
    asked = overview.choose_question(read, Selection())
    assert asked is not None
    judge(read, asked)  # where a test has left an app running, views would wait for the background
    section = search.build(read, Selection())
    chart = next(c for c in section.charts if c.key == "exponents")
    lines: Any = chart.figure.data
    marks = next(t for t in lines if t.name.startswith("fitted"))
    assert list(marks.x) == pytest.approx([f["fitted"] for f in shown["factors"]], rel=1e-3)
    assert shown["words"] in chart.caption


def test_the_searchs_model_is_named_where_the_designed_trials_are_too_few(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(tmp_path / "run")
    sweep(Path(folder), objective="gain_mean", seed=3, **PLAIN)
    shown = ask(capsys, "status", folder)["exponents"]
    assert shown["source"] == "search"
    assert shown["words"].startswith("The exponents are those of the search's own model")
    assert "the test needs 12" in shown["words"]
