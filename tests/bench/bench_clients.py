"""Slow clients among others, each from an address of its own: what the others wait, and what the slow ones cost."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import signal
import socket
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import psutil
from bench_service import start
from provenance import provenance

from sweeper.client import Client
from sweeper.net import raise_limit

HALF_HEADER = b"GET /v1/me HTTP/1.1\r\nHost: 127.0"
HEAD_START, AGAIN_SECONDS = 4.0, 1.0
SMALL = 4096  # bytes that a client that does not read takes at most


def halves(sweep: str) -> list[bytes]:
    """Return what slow clients send: half a header, half a body of the API and of a page, and an unread report."""
    post = "POST {} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 9999\r\n\r\n{{"
    return [
        HALF_HEADER,
        post.format("/v1/sweeps").encode(),
        post.format("/_dash-update-component").encode(),
        f"GET /v1/sweeps/{sweep}/report HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode(),
    ]


def _over(found: socket.socket) -> bool:
    try:
        return found.recv(SMALL) == b""
    except BlockingIOError:
        return False


async def _slow(address: str, port: int, sent: bytes, until: float) -> int:
    """Hold a connection, and another one when that is cut off; returns how many there were."""
    loop, opened = asyncio.get_running_loop(), 0
    while time.monotonic() < until:
        with socket.socket() as found:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
            found.bind((address, 0))
            found.setblocking(False)
            await loop.sock_connect(found, ("127.0.0.1", port))
            opened += 1
            with contextlib.suppress(OSError):
                await loop.sock_sendall(found, sent)
                while time.monotonic() < until:
                    await asyncio.sleep(0.2)
                    if b"report" not in sent and _over(found):
                        break
        await asyncio.sleep(AGAIN_SECONDS)
    return opened


async def _other(address: str, url: str, sweep: str, until: float, pause: float) -> tuple[list[float], Counter[int]]:
    times: list[float] = []
    statuses: Counter[int] = Counter()
    connector = aiohttp.TCPConnector(local_addr=(address, 0))
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(60)) as session:
        while time.monotonic() < until:
            for path in ("v1/me", f"v1/sweeps/{sweep}", ""):
                began = time.perf_counter()
                try:
                    async with session.get(url + path) as answer:
                        await answer.read()
                        statuses[answer.status] += 1
                except (aiohttp.ClientError, TimeoutError):
                    statuses[0] += 1
                times.append(time.perf_counter() - began)
                await asyncio.sleep(pause)
    return times, statuses


async def _others(url: str, sweep: str, others: int, seconds: float, pause: float) -> Any:
    until = time.monotonic() + seconds
    return await asyncio.gather(*(_other(f"127.0.0.{2 + n}", url, sweep, until, pause) for n in range(others)))


async def _slow_ones(url: str, sweep: str, slow: int, same: int, seconds: float) -> int:
    port, until, sent = urlsplit(url).port or 80, time.monotonic() + seconds, halves(sweep)
    held = [_slow(f"127.0.1.{1 + n}", port, sent[n % len(sent)], until) for n in range(slow)]
    held += [_slow("127.0.2.1", port, HALF_HEADER, until) for _ in range(same)]
    return sum(await asyncio.gather(*held))


def _apart(do: Any, *args: Any) -> Any:
    raise_limit()
    return asyncio.run(do(*args))


def measure(
    server: psutil.Process, url: str, sweep: str, others: int, slow: int, same: int, seconds: float, pause: float
) -> tuple[Any, int, list[float]]:
    """Return what clients saw, how many connections slow ones opened, and the server's memory meanwhile."""
    memory = [server.memory_info().rss]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        held = pool.apply_async(_apart, (_slow_ones, url, sweep, slow, same, seconds + HEAD_START))
        time.sleep(HEAD_START)
        found = pool.apply_async(_apart, (_others, url, sweep, others, seconds, pause))
        while not (found.ready() and held.ready()):
            memory.append(server.memory_info().rss)
            time.sleep(0.2)
        return found.get(), held.get(), memory


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=100, help="all of them (default: %(default)s)")
    parser.add_argument("--slow", type=int, default=30, help="of them (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=20.0, help="default: %(default)s")
    parser.add_argument("--pause", type=float, default=0.5, help="between requests of one (default: %(default)s)")
    args = parser.parse_args()
    print(provenance())
    others = args.clients - args.slow
    rows = [
        ("first requests", others, 0, 0),
        ("nobody is slow", others, 0, 0),
        (f"{args.slow} slow ones", others, args.slow, 0),
        (f"{args.slow} slow ones again", others, args.slow, 0),
        ("1,100 half headers of one address", others, 0, 1100),
        ("100 slow ones", others, 100, 0),
    ]
    with tempfile.TemporaryDirectory() as folder:
        process, url = start(Path(folder) / "root", 0.0)
        url += "" if url.endswith("/") else "/"
        try:
            client = Client(url)
            asked = {"space": "synthetic", "sampler": "random", "runner": "inline", "trials": 300}
            sweep = client.wait(client.submit(asked).id, timeout=300).id
            server = psutil.Process(process.pid)
            size = len(client.report(sweep))
            print(f"\n{others} clients that ask for 3 paths in turn, {args.pause:g} s between them; ", end="")
            print(f"{args.seconds:g} s each, n = 1; a report has {size / 1e6:.1f} MB")
            head = ("requests", "p50 ms", "p95 ms", "max ms", "errors", "MB before", "most", "after", "held")
            print(f"{'':>34}", *(f"{word:>9}" for word in head))
            for name, asking, slow, same in rows:
                found, held, memory = measure(server, url, sweep, asking, slow, same, args.seconds, args.pause)
                times = sorted(1e3 * t for one, _ in found for t in one)
                statuses = sum((c for _, c in found), Counter())
                wrong = sum(n for status, n in statuses.items() if status != 200)
                p50, p95 = (times[min(len(times) - 1, int(q * len(times)))] for q in (0.5, 0.95))
                numbers = (len(times), p50, p95, times[-1], wrong)
                numbers += tuple(m / 1e6 for m in (memory[0], max(memory), memory[-1]))
                print(f"{name:>34}", *(f"{n:>9.0f}" for n in (*numbers, held)), flush=True)
            print("held: connections that the slow ones opened, another one where one was cut off")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


if __name__ == "__main__":
    main()
