"""The driver on Ray: its memory and trials/s over thousands of trials, and weak scaling with trials that sleep."""

import argparse
import os
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

from provenance import provenance

import sweeper
from sweeper import SweepSpec
from sweeper.runner.status import Status
from sweeper.storage.tables import read_trials
from trainables.pair.synthetic import SECONDS

WORKERS = (1, 2, 4, 8)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000, help="of the driver's table, 0 for none (10000 for all)")
    parser.add_argument("--sampler", default="random", help="of the driver's table (default: %(default)s)")
    parser.add_argument("--seconds", type=float, nargs="*", default=[10.0, 1.0], help="of a sleeping trial")
    parser.add_argument(
        "--busy", type=float, default=40.0, help="seconds of sleep of each worker (default: %(default)s)"
    )
    args = parser.parse_args()
    print(provenance())
    if args.trials:
        driver(args.trials, args.sampler)
    if args.seconds:
        print("weak scaling: as many trials of each worker; workers share the cores, sleeping takes none of them")
        heads = ("trial [s]", "workers", "trials", "ideal [s]", "wall [s]", "efficiency", "start-up [s]")
        print(" ".join(heads))
        for seconds in args.seconds:
            for workers in WORKERS:
                scaling(seconds, workers, max(2, round(args.busy / seconds)))


def driver(trials: int, sampler: str) -> None:
    """Print memory and speed of the driver, at every tenth of the trials."""
    step, seen, start = max(1, trials // 10), [0], time.monotonic()
    print(f"closed form, {trials} trials, sampler {sampler}, 2 workers")
    print(f"{'trials':>6} {'driver RSS [MB]':>15} {'trials/s':>8} {'files of Tune and Ray [MB]':>26}")
    last = [start]

    def listen(status: Status) -> None:
        if status.done // step > seen[0]:
            seen[0] = status.done // step
            now = time.monotonic()
            print(
                f"{status.done:>6} {resident():>15.0f} {step / (now - last[0]):>8.1f} {left_over():>26.1f}", flush=True
            )
            last[0] = now

    with tempfile.TemporaryDirectory() as folder:
        run(folder, listen, trials=trials, sampler=sampler, workers=2)
        print(f"whole sweep: {trials / (time.monotonic() - start):.1f} trials/s, with start-up and end")
        began = time.monotonic()
        run(folder, lambda _: None, trials=trials, sampler=sampler, workers=2)
        print(f"resume of the finished sweep: {time.monotonic() - began:.1f} s")


def scaling(seconds: float, workers: int, rounds: int) -> None:
    """Print one row: trials that sleep, so many of each worker."""
    os.environ[SECONDS] = str(seconds)
    try:
        with tempfile.TemporaryDirectory() as folder:
            begun = time.time()
            run(folder, lambda _: None, trials=rounds * workers, sampler="random", workers=workers)
            first = min(datetime.fromisoformat(r["started"]).timestamp() for r in read_trials(folder).to_pylist())
            ended = max(p.stat().st_mtime for p in (Path(folder) / "trials").iterdir())
    finally:
        del os.environ[SECONDS]
    ideal, wall = rounds * seconds, ended - first
    print(
        f"{seconds:>9g} {workers:>7} {rounds * workers:>6} {ideal:>9.0f} {wall:>8.1f} {ideal / wall:>10.0%} "
        f"{first - begun:>12.1f}",
        flush=True,
    )


def run(folder: str, listener: Any, **more: Any) -> None:
    """Run a sweep of the closed form."""
    sweeper.run(SweepSpec(space="synthetic", out=folder, **more), listener)


def resident() -> float:
    """Return this process's resident memory in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def left_over() -> float:
    """Return the size in MB of what Tune wrote: its experiment's folder and Ray's folder of artifacts."""
    import ray

    node = ray._private.worker._global_node
    folders = [*Path(tempfile.gettempdir()).glob("sweeper-tune-*")]
    folders += [Path(node.get_session_dir_path()) / "artifacts"] if node else []
    size = 0
    for folder in folders:
        for root, _, files in os.walk(folder):
            for name in files:
                try:
                    size += os.stat(os.path.join(root, name)).st_size  # noqa: PTH116, PTH118
                except OSError:
                    continue
    return size / 1e6


if __name__ == "__main__":
    main()
