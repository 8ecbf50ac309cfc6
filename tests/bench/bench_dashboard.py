"""The app at 10,000 trials, measured in Chromium: first paint, tabs, filters. A table, no gate.

Usage: python tests/bench/bench_dashboard.py [--trials 10000] [--n 7]
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from sweeper.storage import tables
from tests.support.fake_sweep import trial

PART = 2000
DRAWN = "() => document.querySelector('#content .js-plotly-plot .main-svg .xtick')"
XTITLE = "document.querySelector('#content .js-plotly-plot')?.layout.xaxis.title.text"


def write(run: Path, trials: int) -> None:
    """Write a sweep of two repeats a configuration in a few large parts."""
    run.mkdir(parents=True)
    settings = {"space": "fake_space", "trials": trials // 2, "objective": "gain_mean", "noise": "paper", "repeats": 2}
    (run / "sweep.yaml").write_text(yaml.safe_dump(settings))
    outputs = [trial(i // 2, i % 2) for i in range(trials)]
    for first in range(0, trials, PART):
        part = outputs[first : first + PART]
        tables._write_part(run, "trials", f"{first:06d}", [o.result.to_row() for o in part])
        for table in ("merges", "history"):
            rows = tables._records([row for o in part for row in getattr(o, table)])
            tables._write_part(run, table, f"{first:06d}", rows)


def timed(act: Callable[[], Any]) -> float:
    """Return how long `act` takes [ms]."""
    begin = time.perf_counter()
    act()
    return 1e3 * (time.perf_counter() - begin)


def measure(browser: Any, address: str, n: int) -> dict[str, list[float]]:
    """Return the times [ms] of each action, `n` of each."""
    found: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)

    for _ in range(n):
        context = browser.new_context(viewport={"width": 1400, "height": 900})
        page = context.new_page()
        begin = time.perf_counter()
        page.goto(address)
        page.wait_for_selector("#tiles .tile")
        note("first paint: verdict and numbers", 1e3 * (time.perf_counter() - begin))
        page.wait_for_function(DRAWN)
        note("first paint: figures too", 1e3 * (time.perf_counter() - begin))
        context.close()
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.goto(f"{address}?tab=trials")
    page.wait_for_selector(".ag-row")
    for i in range(n):
        rule = f"{{learning_rate: {{filterType: 'number', type: 'greaterThan', filter: {0.01 * (i + 1)}}}}}"
        before = page.locator("#count").text_content()
        page.evaluate(f"dash_ag_grid.getApi('grid').setFilterModel({rule})")
        changed = f"document.querySelector('#count').textContent !== {before!r}"
        note("filter of the list", timed(lambda c=changed: page.wait_for_function(c)))
    for i in range(n):
        row = page.locator(f".ag-row[row-index='{i}']")
        digest = row.locator("[col-id=number]").text_content()
        opened = f"document.querySelector('#details h3')?.textContent.startsWith('Trial {digest},')"
        row.click()
        note("a trial's details", timed(lambda o=opened: page.wait_for_function(o)))
    page.goto(address)
    page.wait_for_function(DRAWN)
    for i in range(n):
        noise = ("linear", "smith_le", "paper_v1", "wd_intrinsic")[i % 4]
        before = page.evaluate(XTITLE)
        link = f"history.pushState(null, '', '?noise={noise}'); dispatchEvent(new PopStateEvent('popstate'))"
        page.evaluate(link)
        changed = f"{XTITLE} !== {before!r}"
        kind = "a selection (noise), first time" if i < 4 else "a selection (noise), again"
        note(kind, timed(lambda c=changed: page.wait_for_function(c)))
    page.close()
    return found


def main() -> None:
    """Write, serve, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--n", type=int, default=7)
    args = parser.parse_args()
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        write(run, args.trials)
        command = [sys.executable, "-m", "sweeper", "dashboard", str(run), "--port", "0"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            address = server.stdout.readline().split()[0]
            with sync_playwright() as playwright:
                path = shutil.which("chromium")
                browser = playwright.chromium.launch(executable_path=path, args=["--headless", "--no-sandbox"])
                page = browser.new_page()
                page.goto(address)
                page.wait_for_function("!/still computing/i.test(document.body.textContent)", timeout=600_000)
                page.close()
                found = measure(browser, address, args.n)
                browser.close()
        finally:
            server.terminate()
            server.wait()
    print(f"{args.trials} trials; ms\n{'action':<36}{'n':>4}{'median':>9}{'min':>9}{'max':>9}")
    for name, times in found.items():
        print(f"{name:<36}{len(times):>4}{statistics.median(times):>9.0f}{min(times):>9.0f}{max(times):>9.0f}")


if __name__ == "__main__":
    main()
