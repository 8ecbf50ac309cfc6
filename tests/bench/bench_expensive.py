"""Cheap calls beside expensive ones: what 40 dry runs of the largest YAML cost another user of a service."""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from provenance import provenance

from sweeper.service.policy.limits import Limits

USERS, CALLS = ("anna", "ben", "carl", "dora"), 40
OTHER = "eve"
PAUSE = 0.05


@dataclass
class Seen:
    """Answers and how long they took [s]."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: dict[int, list[float]] = field(default_factory=dict)

    def add(self, status: int, seconds: float) -> None:
        """Take an answer."""
        self.statuses[status] += 1
        self.seconds.setdefault(status, []).append(seconds)

    def of(self, status: int, share: float) -> float:
        """Return a quantile of the times of answers with a status [ms]."""
        times = sorted(self.seconds.get(status, [float("nan")]))
        return 1e3 * times[min(len(times) - 1, int(share * len(times)))]


def spec(kind: str, size: int) -> bytes:
    """Return a spec as YAML of at most `size` bytes: many configurations to try first, or many values of knobs."""
    if kind == "enqueue":
        line = "- {{learning_rate: 0.{0}, batch_size: 32}}\n"
        head = "space: digits_cnn\ntrials: 100000\nenqueue:\n"
        lines = [line.format(1000 + i) for i in range((size - len(head)) // len(line.format(1000)))]
        return (head + "".join(lines)).encode()
    knobs = ("learning_rate", "momentum", "weight_decay", "augmentation_strength")
    text = "space: digits_cnn\nparameters:\n"
    for name in knobs:
        text += f"  {name}: {{values: [{', '.join(f'{(i + 1) / 1000:.9f}' for i in range(490))}]}}\n"
    return text.encode()


def start(root: Path) -> tuple[subprocess.Popen[bytes], str, dict[str, str]]:
    """Start a server with a token for each user; returns it, its URL and the tokens."""
    sweeper, env = [sys.executable, "-m", "sweeper"], {**os.environ, "OMP_NUM_THREADS": "1"}
    tokens: dict[str, str] = {}
    for name in (*USERS, OTHER):
        command = [*sweeper, "token", "create", name, "--role", "submitter", "--root", str(root)]
        shown = subprocess.run(command, check=True, capture_output=True, text=True, env=env)
        tokens[name] = shown.stdout.split()[0]
    log = root.with_suffix(".log")
    with log.open("wb") as file:
        command = [*sweeper, "serve", "--root", str(root), "--port", "0", "--auth"]
        process = subprocess.Popen(command, stdout=file, stderr=file, env=env)
    while not (found := re.search(r"http://\S+?:\d+", log.read_text())):
        if process.poll() is not None:
            raise RuntimeError(log.read_text())
        time.sleep(0.05)
    return process, found.group(), tokens


async def _dry_runs(url: str, token: str, body: bytes, until: float, seen: Seen) -> None:
    """Send one dry run after the other; one that is refused is sent again when the service says so."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/yaml"}
    async with aiohttp.ClientSession(url, headers=headers) as session:
        while time.monotonic() < until:
            began = time.perf_counter()
            async with session.post("/v1/sweeps?dry_run=true", data=body) as response:
                await response.read()
                seen.add(response.status, time.perf_counter() - began)
                pause = float(response.headers.get("Retry-After", 0))
            await asyncio.sleep(min(pause, max(0.0, until - time.monotonic())))


async def _polls(url: str, token: str, until: float, seen: Seen) -> None:
    headers = {"Authorization": f"Bearer {token}"}
    async with aiohttp.ClientSession(url, headers=headers) as session:
        while time.monotonic() < until:
            began = time.perf_counter()
            async with session.get("/v1/me") as response:
                await response.read()
                seen.add(response.status, time.perf_counter() - began)
            await asyncio.sleep(PAUSE)


async def measure(url: str, tokens: dict[str, str], body: bytes, seconds: float) -> tuple[Seen, Seen]:
    """Return the answers that the other user got, and those of the dry runs."""
    until = time.monotonic() + seconds
    polled, sent = Seen(), Seen()
    calls = CALLS if body else 0
    await asyncio.gather(
        _polls(url, tokens[OTHER], until, polled),
        *(_dry_runs(url, tokens[USERS[i % len(USERS)]], body, until, sent) for i in range(calls)),
    )
    return polled, sent


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="per row (default: %(default)s)")
    args = parser.parse_args()
    print(provenance())
    print(
        f"\nGET /v1/me of another user, one after the other, {PAUSE:g} s between them; {args.seconds:g} s each, n = 1;"
    )
    print(f"{CALLS} clients of {len(USERS)} users send dry runs without a pause, and wait where Retry-After says so")
    print(f"{'dry runs of':<22} {'me: n':>6} {'p50 ms':>7} {'p95 ms':>7} {'max ms':>7} {'to idle':>8}  the dry runs")
    most = Limits().yaml
    rows = {
        "none": b"",
        "106 kB, enqueue": spec("enqueue", 106_000),
        f"{most / 1e3:.0f} kB, enqueue": spec("enqueue", most),
        "1960 values": spec("values", most),
        "none again": b"",
    }
    with tempfile.TemporaryDirectory() as folder:
        server, url, tokens = start(Path(folder) / "root")
        try:
            idle = 0.0
            asyncio.run(measure(url, tokens, b"", 1.0))
            for name, body in rows.items():
                polled, sent = asyncio.run(measure(url, tokens, body, args.seconds))
                p50, p95, worst = (polled.of(200, share) for share in (0.5, 0.95, 1.0))
                idle = idle or p95
                told = ", ".join(
                    f"{n} x {status} (p50 {sent.of(status, 0.5):.0f} ms)" for status, n in sorted(sent.statuses.items())
                )
                others = sum(polled.statuses.values()) - polled.statuses[200]
                note = f"; {others} of the others' calls failed" if others else ""
                n = polled.statuses[200]
                print(
                    f"{name:<22} {n:>6} {p50:>7.1f} {p95:>7.1f} {worst:>7.1f} {p95 / idle:>8.1f}  {told}{note}",
                    flush=True,
                )
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait()


if __name__ == "__main__":
    main()
