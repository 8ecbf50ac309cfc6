"""Thousands of distinct trials of a closed form in one run on Ray: rate, the driver's memory, reading, page. A table.

    python tests/bench/bench_many_trials.py --trials 10000

Trials take milliseconds, so all of the time is orchestration. The memory is that of the driver's process.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from provenance import provenance

from dashboards.page.page import write_page
from sweeper.storage.tables import read_trials

SPACE = "synthetic"
EVERY = 2.0
"""Seconds between two samples."""


def watch(command: list[str], log: Path) -> list[tuple[float, int, float]]:
    """Run a sweep; return samples of (seconds, finished trials, memory of the driver [MB])."""
    samples: list[tuple[float, int, float]] = []
    began = time.monotonic()
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        driver = psutil.Process(process.pid)
        while process.poll() is None:
            time.sleep(EVERY)
            try:
                memory = driver.memory_info().rss / 1e6
            except psutil.NoSuchProcess:
                break
            if memory:  # it has not ended
                samples.append((time.monotonic() - began, count(log), memory))
    if process.wait():
        raise SystemExit(f"the sweep ended with exit code {process.returncode}: {log.read_text()[-2000:]}")
    return samples


def count(log: Path) -> int:
    """Return the finished trials of the last progress line, `N/TOTAL trials, ...`."""
    lines = [line for line in log.read_text().splitlines() if "/" in line and "trial" in line]
    head = lines[-1].split("/")[0].split()[-1] if lines else "0"
    return int(head.replace(",", "")) if head.replace(",", "").isdigit() else 0


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000, help="configurations (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="trials at a time (default: %(default)s)")
    parser.add_argument("--sampler", default="qmc", help="default: %(default)s")
    args = parser.parse_args()
    print(f"{SPACE}, {args.trials} trials, {args.sampler}, {args.workers} workers; {provenance()}")
    with tempfile.TemporaryDirectory() as folder:
        run, log = Path(folder) / "run", Path(folder) / "log"
        command = [
            sys.executable, "-m", "sweeper", "run", SPACE, "--trials", str(args.trials), "--sampler", args.sampler,
            "--map", "0", "--confirm", "0", "--workers", str(args.workers), "--out", str(run),
        ]  # fmt: skip
        samples = watch(command, log)
        first = next(t for t, done, _ in samples if done)
        for share in (0.1, 0.25, 0.5, 0.75, 1.0):
            at = [s for s in samples if s[1] <= share * args.trials][-1]
            print(f"{at[1]:>7} trials at {at[0] - first:>7.1f} s, driver {at[2]:>6.0f} MB")
        last = samples[-1][0]
        print(f"start-up {first:.1f} s, then {args.trials / (last - first):.1f} trials/s to the end, page included")
        start = time.perf_counter()
        rows = read_trials(run).num_rows
        print(f"{rows} rows read in {time.perf_counter() - start:.2f} s")
        start = time.perf_counter()
        page = Path(write_page(run))
        print(f"page of {page.stat().st_size / 1e6:.2f} MB in {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()
