"""The app in Chromium: tabs, addresses, a sweep that grows while it is open, and the command that serves it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("dash_ag_grid")
from sweeper.storage import tables
from tests.support.fake_sweep import trial, write_sweep
from tests.support.waiting import PATIENCE
from trainables.result import PlaneRow

pytestmark = pytest.mark.browser

DRAWN = "() => document.querySelectorAll('.plot').length && " + (
    "[...document.querySelectorAll('.plot')].every(p => p.querySelector('.main-svg .xtick, .main-svg .x2tick'))"
)
NO_SCROLL = "document.documentElement.scrollWidth <= window.innerWidth"
RANGE = "document.querySelector('.curve .js-plotly-plot').layout.xaxis.range"
TOP = "document.querySelector('.curve .js-plotly-plot').getBoundingClientRect().top"
FIRST_PLOT = "document.querySelector('.curve .js-plotly-plot')"


@dataclass
class Opened:
    """A page of the app, and what it complained of."""

    page: Any
    base: str
    errors: list[str] = field(default_factory=list)

    def go(self, query: str = "") -> Opened:
        self.page.goto(f"{self.base}/{query}")
        self.page.wait_for_selector("#tabs a.current")
        return self


@pytest.fixture
def served() -> Iterator[Callable[..., str]]:
    """Serve run folders in a thread; yields (folders) -> address."""
    from waitress.server import create_server

    from dashboards.app.app import make_app
    from dashboards.app.serve import open_socket
    from dashboards.data.folders import Live, open_folders

    servers: list[tuple[Any, threading.Thread]] = []

    def start(*folders: Path) -> str:
        listening = open_socket("127.0.0.1", 0)
        server = create_server(
            make_app(Live(open_folders([str(f) for f in folders]))).server, sockets=[listening], threads=6
        )
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        servers.append((server, thread))
        return f"http://127.0.0.1:{listening.getsockname()[1]}"

    yield start
    for server, thread in servers:
        server.close()
        thread.join(5)


@pytest.fixture
def look(chromium: Any) -> Iterator[Callable[..., Opened]]:
    contexts: list[Any] = []

    def open_at(base: str, query: str = "", width: int = 1400, scheme: str = "light") -> Opened:
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        seen = Opened(context.new_page(), base)
        seen.page.on("console", lambda m: seen.errors.append(m.text) if m.type == "error" else None)
        seen.page.on("pageerror", lambda e: seen.errors.append(str(e)))
        return seen.go(query)

    yield open_at
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sweep(tmp_path_factory.mktemp("app") / "first", trials=24, repeats=2, budget=30)


def choose(page: Any, label: str, option: str) -> None:
    page.locator(".control", has_text=re.compile(f"^{label}")).locator("button, .dash-dropdown").first.click()
    page.locator(".dash-dropdown-option, [role=option]", has_text=option).first.click()


def zoom(page: Any) -> list[float]:
    """Drag a box in the first figure; returns the range of its axis then."""
    before = page.evaluate(RANGE)
    page.evaluate("document.querySelector('.curve').scrollIntoView({behavior: 'instant'})")
    box = page.locator(".curve .js-plotly-plot .nsewdrag").first.bounding_box()
    x, y, w, h = (box[k] for k in ("x", "y", "width", "height"))
    page.mouse.move(x + 0.3 * w, y + 0.3 * h)
    page.mouse.down()
    page.mouse.move(x + 0.7 * w, y + 0.7 * h, steps=5)
    page.mouse.up()
    page.wait_for_function(f"{RANGE}[0] > {before[0]} + 0.1")
    return page.evaluate(RANGE)


def test_every_tab_opens_in_silence_and_without_a_scroll(run: Path, served: Any, look: Any) -> None:
    from dashboards.views import VIEWS

    seen = look(served(run), width=800)
    for name, view in VIEWS.items():
        seen.page.locator("#tabs a", has_text=view.title).first.click()
        seen.page.wait_for_function(f"document.querySelector('#tabs a.current').textContent === {view.title!r}")
        if name == "trials":
            seen.page.wait_for_selector(".ag-row")
        else:
            seen.page.wait_for_function(DRAWN)
        assert seen.page.evaluate(NO_SCROLL), name
        assert "cannot be shown" not in seen.page.content(), name
        assert f"tab={name}" in seen.page.url or name == "overview"
    assert seen.errors == []


def test_a_choice_changes_figure_and_address_and_the_address_restores_it(run: Path, served: Any, look: Any) -> None:
    seen = look(served(run))
    page = seen.page
    page.wait_for_function(DRAWN)
    title = f"{FIRST_PLOT}.layout.xaxis.title.text"
    first = page.evaluate(title)
    assert first == "noise η/(B(1−μ)) [1/examples]"
    choose(page, "noise", "linear")
    page.wait_for_function(f"{title} !== {first!r}")
    assert page.evaluate(title) == "noise η/B [1/examples]"
    assert page.url.endswith("?noise=linear")
    page.go_back()
    page.wait_for_function(f"{title} === {first!r}")
    for pause in (0, 50, 100, 200, 400):  # forward while the page is at any stage of going back
        page.go_forward()
        page.wait_for_function(f"{title} !== {first!r}")
        page.evaluate("history.back()")
        # the address changes first; before it does, the browser would ignore a step forward
        page.wait_for_url(lambda url: "noise=linear" not in url)
        page.wait_for_timeout(pause)
    page.wait_for_function(f"{title} === {first!r}")
    page.go_forward()
    page.wait_for_function(f"{title} !== {first!r}")
    again = look(seen.base, "?noise=linear")
    again.page.wait_for_function(DRAWN)
    assert again.page.evaluate(title) == "noise η/B [1/examples]"
    page.locator(".control input[type=number]").fill("96")
    page.wait_for_function("document.querySelector('#learning-rates tbody td').textContent === '96'")
    page.wait_for_function("document.querySelector('#use dd').textContent === '96'")
    assert "batch_size=96" in page.url
    assert seen.errors == again.errors == []


@pytest.mark.parametrize(("width", "height"), [(1400, 900), (390, 844)])
def test_three_notes_keep_badge_card_and_curve_above_the_fold(
    run: Path, served: Any, look: Any, monkeypatch: pytest.MonkeyPatch, width: int, height: int
) -> None:
    from dashboards.views import overview

    notes = tuple(f"Note {i}: the weight decay lies at the lower end of its range." for i in range(3))
    monkeypatch.setattr(overview, "list_remarks", lambda *_: notes)
    page = look(served(run), width=width).page
    page.set_viewport_size({"width": width, "height": height})
    page.wait_for_function(DRAWN)
    page.wait_for_function("!/still computing/i.test(document.body.textContent)")
    for part in (".badge", "#use", ".curve .gridlayer"):
        assert page.locator(part).first.bounding_box()["y"] < height, part
    box = page.locator("#use").bounding_box()
    assert box["y"] + box["height"] <= height
    assert page.locator("#use .note").count() == 3
    assert page.locator("#use .note").first.is_visible() == (width > 640)


def test_unknown_values_fall_back_and_are_said(run: Path, served: Any, look: Any) -> None:
    seen = look(served(run), "?tab=nowhere&noise=papr&run=gone")
    seen.page.wait_for_function(DRAWN)
    said = seen.page.locator("#notices").text_content()
    for words in ("no tab 'nowhere'", "no noise 'papr'", "no sweep 'gone'"):
        assert words in said
    assert seen.errors == []


def test_a_new_trial_shows_within_five_seconds_and_the_zoom_stays(tmp_path: Path, served: Any, look: Any) -> None:
    run = write_sweep(tmp_path / "run", trials=10, budget=20)
    seen = look(served(run))
    page = seen.page
    page.wait_for_function(DRAWN)
    page.wait_for_selector("text=10 of 20")
    page.wait_for_function("!/still computing/i.test(document.body.textContent)")
    zoomed, place = zoom(page), page.evaluate(TOP)
    (run / "trials" / "half.parquet").write_bytes(b"PAR1 half a part")
    tables.write(run, trial(10))
    page.wait_for_selector("text=11 of 20")
    page.wait_for_selector("text=half.parquet cannot be read")
    assert page.evaluate(RANGE) == zoomed
    assert page.evaluate(TOP) == pytest.approx(place, abs=1)
    assert seen.errors == []


def test_the_list_filters_sorts_opens_and_grows(tmp_path: Path, served: Any, look: Any) -> None:
    run = write_sweep(tmp_path / "run", trials=30, budget=40)
    seen = look(served(run), "?tab=trials")
    page = seen.page
    page.wait_for_selector(".ag-row")
    page.wait_for_selector("text=30 trials")
    page.evaluate(
        "dash_ag_grid.getApi('grid').setFilterModel({batch_size: {filterType: 'number', type: 'equals', filter: 64}})"
    )
    page.wait_for_selector("text= of 30 trials")
    page.wait_for_function("location.search.includes('filter=')")
    sizes = page.locator(".ag-row [col-id=batch_size]").all_text_contents()
    assert set(sizes) == {"64"}
    again = look(seen.base, page.url.split("/")[-1])
    again.page.wait_for_selector(f"text={len(sizes)} of 30 trials")
    with urllib.request.urlopen(again.page.locator("#csv").evaluate("e => e.href")) as answer:
        assert len(answer.read().decode().splitlines()) == len(sizes) + 1
    page.locator(".ag-row").first.click()
    page.wait_for_selector("#details code")
    assert page.locator("#details code").text_content().startswith(f"sweeper pair {run} ")
    assert page.locator("#details .plot").count() == 2
    assert "trial=" in page.url
    tables.write(run, trial(30))
    page.wait_for_selector(" of 31 trials".join(("text=", "")))
    assert page.locator("#details code").count() == 1
    page.locator("#details a", has_text="close").click()
    page.wait_for_function("!document.querySelector('#details code')")
    assert seen.errors == again.errors == []


def test_a_loss_plane_is_chosen(tmp_path: Path, served: Any, look: Any) -> None:
    run = write_sweep(tmp_path / "run", trials=8, budget=8)
    digests = [trial(i).result.digest for i in (2, 5)]
    for digest in digests:
        plane = [PlaneRow(digest, "c", x, y, 1 + x * x + y, 2 + x) for x in (0.0, 0.5, 1.0) for y in (1.0, 0.0)]
        tables._write_part(run, "planes", digest, tables._records(plane))
    seen = look(served(run), f"?tab=landscape&trial={digests[0]}")
    seen.page.wait_for_selector(f"text={digests[0]}")
    seen.page.evaluate(f"history.pushState(null, '', '?tab=landscape&trial={digests[1]}')")
    seen.page.evaluate("dispatchEvent(new PopStateEvent('popstate'))")
    seen.page.wait_for_selector(f"text=({digests[1]}")
    assert seen.errors == []


def test_the_theme_follows_the_system_and_the_button(run: Path, served: Any, look: Any) -> None:
    page = look(served(run), scheme="dark").page
    page.wait_for_function(DRAWN)
    ink = "getComputedStyle(document.querySelector('.plot .xtick text')).fill"
    back = "getComputedStyle(document.body).backgroundColor"
    assert (page.evaluate(ink), page.evaluate(back)) == ("rgb(213, 218, 226)", "rgb(17, 21, 27)")
    page.locator("#theme-button").click()
    page.wait_for_function(f"{ink} === 'rgb(51, 60, 73)'")
    assert page.evaluate(back) == "rgb(245, 246, 248)"


@pytest.mark.parametrize("count", [0, 1])
def test_a_run_that_has_just_begun_says_what_is_not_known(tmp_path: Path, served: Any, look: Any, count: int) -> None:
    from dashboards.views import VIEWS

    seen = look(served(write_sweep(tmp_path / "run", trials=count, budget=40)), width=800)
    for name in VIEWS:
        seen.go(f"?tab={name}")
        seen.page.wait_for_function("document.querySelector('#content').children.length")
        assert "cannot be shown" not in seen.page.content(), name
    assert seen.errors == []


def test_several_sweeps_are_shown_together(tmp_path: Path, run: Path, served: Any, look: Any) -> None:
    other = write_sweep(tmp_path / "second", trials=9, budget=9)
    seen = look(served(run, other), "?run=first,second")
    seen.page.wait_for_function(DRAWN)
    rows = seen.page.locator("#beside tbody tr").all_text_contents()
    # the second sweep's trials all stand in the first one too
    assert [r[:6] for r in rows] == ["first4"]
    assert seen.errors == []


def test_the_command_takes_the_next_port_and_ends_on_ctrl_c(run: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "sweeper", "dashboard", str(run), "--port", str(port)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
        assert process.stdout is not None
        said = process.stdout.readline(), process.stdout.readline()
        address = said[1].split()[0]
        with urllib.request.urlopen(address) as answer:
            assert answer.status == 200
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
    assert said[0] == f"port {port} is in use, this is the next free one\n"
    assert address != f"http://127.0.0.1:{port}/"
    assert (process.returncode, errors) == (0, "stopped\n")
