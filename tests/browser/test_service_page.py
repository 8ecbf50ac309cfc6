"""The service's pages in Chromium: the list, a sweep that grows, what others may not see, a tab that is hidden."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("dash_ag_grid")
pytest.importorskip("uvicorn")
import uvicorn

from sweeper.client.models import State
from sweeper.storage import tables
from tests.support.fake_sweep import trial, write_sweep
from tests.support.pages_service import REGIME, Made
from tests.support.waiting import PATIENCE, until

pytestmark = pytest.mark.browser

NO_SCROLL = "document.documentElement.scrollWidth <= window.innerWidth"
RUNNING = (State.STARTING, State.RUNNING)


class Service:
    """The fake service on a port."""

    def __init__(self, root: Path) -> None:
        from dashboards.app.serve import open_socket

        self.made = Made(root)
        listening = open_socket("127.0.0.1", 0)
        self.base = f"http://127.0.0.1:{listening.getsockname()[1]}"
        self._server = uvicorn.Server(uvicorn.Config(self.made.api, log_level="error", timeout_graceful_shutdown=1))
        self._thread = threading.Thread(target=self._server.run, args=([listening],), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(5)

    def lands(self, sweep: str, number: int) -> None:
        tables.write(self.made.root / sweep, trial(number))
        self.made.events.append((sweep, "trial"))


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    found = Service(tmp_path)
    yield found
    found.close()


@pytest.fixture
def sweeps(service: Service) -> dict[str, str]:
    made = service.made
    ids = {
        "done": made.add("bob", "momentum over batch size", *RUNNING, State.DONE, budget=24),
        "hidden": made.add("ann", "hidden one", *RUNNING, State.FAILED, budget=20, why="the disk is full"),
        "running": made.add("ann", "for all", *RUNNING, shared=True, budget=20),
    }
    made.add("bob", "next in line", budget=40)
    for name, count in {"done": 24, "hidden": 4, "running": 10}.items():
        write_sweep(made.root / ids[name], trials=count, budget=24 if name == "done" else 20)
    made.regimes[ids["done"]] = REGIME
    tables.write(made.root / ids["hidden"], trial(4, outcome="failed", scores={}))
    return ids


class Tab:
    """A tab in which somebody signed in."""

    def __init__(self, context: Any, base: str, token: str) -> None:
        self.errors: list[str] = []
        self.page = context.new_page()
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" else None)
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.page.goto(base)
        self.page.fill("#token", token)
        self.page.click(".door button")
        self.page.wait_for_selector("#sweeps, .empty")

    def beats(self) -> list[float]:
        """Count the questions whether anything is new, by their times [s]."""
        seen: list[float] = []

        def asked(request: Any) -> None:
            if "_dash-update-component" in request.url and '"output":"version.data"' in (request.post_data or ""):
                seen.append(time.monotonic())

        self.page.on("request", asked)
        return seen


@pytest.fixture
def enter(chromium: Any, service: Service) -> Iterator[Callable[..., Tab]]:
    contexts: list[Any] = []

    def signed_in(user: str, width: int = 1400, scheme: str = "light") -> Tab:
        context = chromium.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        context.set_default_timeout(1e3 * PATIENCE)
        contexts.append(context)
        return Tab(context, service.base, service.made.tokens[user])

    yield signed_in
    for context in contexts:
        context.close()


def _picture(tab: Tab, name: str) -> None:
    if folder := os.environ.get("SWEEPER_PICTURES"):
        tab.page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (800, "dark")])
def test_the_list_shows_ones_own_and_shared_sweeps(
    service: Service, sweeps: dict[str, str], enter: Any, width: int, scheme: str
) -> None:
    tab = enter("bob", width, scheme)
    said = tab.page.locator("#sweeps").text_content()
    for words in ("for all", "momentum over batch size", "24 of 24", "10 of 20", "0.0103", "place 1 in the queue"):
        assert words in said
    assert "hidden one" not in tab.page.content()
    assert tab.page.locator(".pill").all_text_contents() == ["queued", "running", "done"]
    assert tab.page.evaluate(NO_SCROLL)
    _picture(tab, f"list-{scheme}-{width}")
    admin = enter("eve", width, scheme)
    assert "the disk is full" in admin.page.locator("#sweeps").text_content()
    _picture(admin, f"admin-{scheme}-{width}")
    assert tab.errors == admin.errors == []


def test_a_sweep_opens_grows_and_leads_back(service: Service, sweeps: dict[str, str], enter: Any) -> None:
    tab, running = enter("bob", 800), sweeps["running"]
    page = tab.page
    page.wait_for_function("document.querySelector('#sweeps') && !document.querySelector('#tabs a')")
    page.click("text=for all")
    page.wait_for_selector("text=10 of 20")
    page.wait_for_selector("#tabs a.current")
    assert f"run={running}" in page.url
    page.wait_for_selector("#content .plot .xtick", state="attached")
    assert page.evaluate(NO_SCROLL)
    service.lands(running, 10)
    page.wait_for_selector(".standing >> text=11 of 20")
    _picture(tab, "sweep-light-800")
    page.click("text=← all sweeps")
    page.wait_for_selector("#sweeps >> text=11 of 20")
    service.lands(running, 11)
    page.wait_for_selector("#sweeps >> text=12 of 20")
    page.go_back()
    page.wait_for_selector("#tabs a.current")
    page.goto(f"{service.base}/?run={sweeps['hidden']}")
    page.wait_for_selector(f"#notices >> text=There is no sweep '{sweeps['hidden']}'")
    page.wait_for_selector("#sweeps >> text=for all")
    assert tab.errors == []


def test_an_empty_service_says_what_to_send(service: Service, enter: Any) -> None:
    tab = enter("ann", 800, "dark")
    assert f"sweeper --server {service.base} run" in tab.page.locator(".empty code").text_content()
    assert tab.page.evaluate(NO_SCROLL)
    _picture(tab, "empty-dark-800")
    tab.page.click("text=sign out")
    tab.page.wait_for_selector("#token")
    tab.page.fill("#token", "wrong")
    tab.page.click(".door button")
    tab.page.wait_for_selector("text=This token is unknown")
    _picture(tab, "wrong-dark-800")


def test_filters_stand_in_the_address(sweeps: dict[str, str], enter: Any) -> None:
    tab = enter("eve")
    page = tab.page
    page.locator(".control", has_text="state").locator("button, .dash-dropdown").first.click()
    page.locator(".dash-dropdown-option, [role=option]", has_text="waiting or running").first.click()
    page.wait_for_function("document.querySelectorAll('#sweeps tbody tr').length === 2")
    assert page.url.endswith("?state=open")
    page.goto(page.url + "&owner=bob")
    page.wait_for_function("document.querySelectorAll('#sweeps tbody tr').length === 1")
    assert tab.errors == []


def test_events_set_the_pace_and_a_hidden_tab_asks_nothing(
    service: Service, sweeps: dict[str, str], enter: Any
) -> None:
    tab, running = enter("bob"), sweeps["running"]
    page, made = tab.page, service.made
    until(lambda: made.streams == 1)
    page.wait_for_timeout(500)
    beats = tab.beats()
    page.wait_for_timeout(2500)
    assert beats == []  # no event, no question
    for _ in range(40):
        made.events.append((running, "trial"))
        page.wait_for_timeout(50)
    assert 2 <= len(beats) <= 7  # in two seconds, twice in each
    page.wait_for_timeout(800)
    _hide(page, True)
    until(lambda: made.streams == 0)
    beats.clear()
    service.lands(running, 10)
    page.wait_for_timeout(1500)
    assert beats == []
    _hide(page, False)
    page.wait_for_selector("#sweeps >> text=11 of 20")
    until(lambda: made.streams == 1)
    assert tab.errors == []


def test_without_a_stream_the_page_looks_each_second(service: Service, sweeps: dict[str, str], enter: Any) -> None:
    made = service.made
    made.api.router.routes[:] = [r for r in made.api.router.routes if getattr(r, "path", "") != "/v1/events"]
    tab = enter("bob")
    tables.write(made.root / sweeps["running"], trial(10))
    tab.page.wait_for_selector("#sweeps >> text=11 of 20")


def _hide(page: Any, hidden: bool) -> None:
    page.evaluate(
        "h => { Object.defineProperty(document, 'hidden', {configurable: true, get: () => h});"
        " document.dispatchEvent(new Event('visibilitychange')); }",
        hidden,
    )
