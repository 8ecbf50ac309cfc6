"""A service under load on this machine: clients that poll while two sweeps run, and what that costs the trials."""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from provenance import provenance

from sweeper.client import Client


def start(root: Path, seconds: float) -> tuple[subprocess.Popen[bytes], str]:
    """Start a server whose synthetic trials sleep so long; returns it and its URL."""
    log = root.with_suffix(".log")
    command = [sys.executable, "-m", "sweeper", "serve", "--root", str(root), "--port", "0", "--rate", "0"]
    with log.open("wb") as file:
        env = {**os.environ, "SWEEPER_SYNTHETIC_SECONDS": str(seconds), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, stdout=file, stderr=file, env=env)
    while not (found := re.search(r"http://\S+?:\d+", log.read_text())):
        if process.poll() is not None:
            raise RuntimeError(log.read_text())
        time.sleep(0.05)
    return process, found.group()


async def _client(session: aiohttp.ClientSession, url: str, sweep: str, until: float, pause: float) -> Any:
    times: list[float] = []
    statuses: Counter[int] = Counter()
    digests: list[str] = []
    after = "0"
    await asyncio.sleep(random.uniform(0, pause))  # they did not all start at the same moment
    while time.monotonic() < until:
        for path in (f"/v1/sweeps/{sweep}", f"/v1/sweeps/{sweep}/trials?after={after}&columns=digest"):
            began = time.perf_counter()
            try:
                async with session.get(url + path) as answer:
                    body = await answer.json()
                    statuses[answer.status] += 1
            except aiohttp.ClientError:
                statuses[0] += 1
                continue
            times.append(time.perf_counter() - began)
            if "items" in body:
                digests += [row["digest"] for row in body["items"]]
                after = body["next"]
        await asyncio.sleep(pause)
    # what landed since the last page
    async with session.get(f"{url}/v1/sweeps/{sweep}/trials?after={after}&columns=digest&limit=10000") as answer:
        digests += [row["digest"] for row in (await answer.json())["items"]]
    return times, statuses, digests


async def _poll(url: str, sweeps: list[str], clients: int, seconds: float, pause: float) -> Any:
    until = time.monotonic() + seconds
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        work = [_client(session, url, sweeps[i % len(sweeps)], until, pause) for i in range(clients)]
        return await asyncio.gather(*work)


def _polling(*args: Any) -> Any:
    return asyncio.run(_poll(*args))


def poll(url: str, sweeps: list[str], clients: int, seconds: float, pause: float) -> Any:
    """Poll from a process of its own; returns (times, statuses, digests) of each client."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_polling, (url, sweeps, clients, seconds, pause))


def load(clients: int, seconds: float, pause: float) -> None:
    """Print the times of requests while two sweeps of sleeping trials run."""
    with tempfile.TemporaryDirectory() as folder:
        server, url = start(Path(folder) / "root", 0.25)
        try:
            client, asked = Client(url), {"space": "synthetic", "sampler": "random", "runner": "inline"}
            sent = [client.submit({**asked, "trials": 100_000, "seed": i}).id for i in range(2)]
            while not all(client.sweep(s).progress.trials for s in sent):
                time.sleep(0.2)
            memory = psutil.Process(server.pid).memory_info
            before = memory().rss
            found = poll(url, sent, clients, seconds, pause)
            after = memory().rss
            for sweep in sent:
                client.stop(sweep)
            landed = {s: set(client.trials(client.wait(s, timeout=120).id)["digest"].to_pylist()) for s in sent}
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()
    times = sorted(t for one, _, _ in found for t in one)
    statuses = sum((c for _, c, _ in found), Counter())
    twice = sum(len(d) - len(set(d)) for _, _, d in found)
    unknown = sum(len(set(d) - landed[sent[i % 2]]) for i, (_, _, d) in enumerate(found))
    same = [{len(set(d)) for i, (_, _, d) in enumerate(found) if i % 2 == k} for k in (0, 1)]
    p50, p95, p99 = (1e3 * times[min(len(times) - 1, int(q * len(times)))] for q in (0.5, 0.95, 0.99))
    print(f"\n{clients} clients that look at a sweep and its new trials, then pause {pause:g} s; {seconds:g} s, n = 1")
    print(f"{'requests/s':>10} {'p50 ms':>7} {'p95 ms':>7} {'p99 ms':>7}  {'memory MB':>12}  answers")
    rate, answers = len(times) / seconds, ", ".join(f"{n} x {s}" for s, n in sorted(statuses.items()))
    print(f"{rate:>10.0f} {p50:>7.1f} {p95:>7.1f} {p99:>7.1f}  {before / 1e6:>5.0f} - {after / 1e6:<4.0f}  {answers}")
    print(f"trials that a client saw twice: {twice}, that are not there: {unknown}; seen by each: {same}")


def slowdown(clients: int, pause: float, trials: int) -> None:
    """Print the device seconds of real trials with and without clients that poll."""
    medians: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        server, url = start(Path(folder) / "root", 0.0)
        try:
            client = Client(url)
            for name in ("alone", "polled", "alone again"):
                asked = {
                    "space": "digits_cnn",
                    "sampler": "random",
                    "trials": trials,
                    "workers": 2,
                    "fixed": {"epochs": 4},
                }
                sweep = client.submit(asked).id
                while client.sweep(sweep).state in ("queued", "starting"):
                    time.sleep(0.2)
                if name == "polled":
                    while not client.sweep(sweep).state.ended:
                        poll(url, [sweep], clients, 10.0, pause)
                client.wait(sweep, timeout=600)
                medians[name] = statistics.median(client.trials(sweep)["device_seconds"].to_pylist())
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()
    shown = ", ".join(f"{name} {value:.2f} s" for name, value in medians.items())
    ratio = medians["polled"] / statistics.mean([medians["alone"], medians["alone again"]])
    print(f"\nmedian time of a digits_cnn trial, two at a time, n = {trials} each: {shown}; ratio {ratio:.2f}")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=200, help="default: %(default)s")
    parser.add_argument("--seconds", type=float, default=30.0, help="default: %(default)s")
    parser.add_argument("--pause", type=float, default=2.0, help="of a client between its looks (default: %(default)s)")
    parser.add_argument("--trials", type=int, default=16, help="real ones each time (default: %(default)s)")
    args = parser.parse_args()
    print(provenance())
    load(args.clients, args.seconds, args.pause)
    slowdown(args.clients, args.pause, args.trials)


if __name__ == "__main__":
    main()
