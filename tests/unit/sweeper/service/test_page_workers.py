"""The workers that make the pages wait for no client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("dash")
from dashboards.views.verdicts import use_judges
from sweeper.service.pages import WORKERS
from sweeper.service.policy.limits import Limits
from tests.support.pages_service import Made
from tests.support.served import Served, rest, served


@pytest.fixture
def pages(tmp_path: Path) -> Iterator[Served]:
    with served(Made(tmp_path, auth=False).api, tmp_path, Limits()) as found:
        yield found
    use_judges(None)


def test_half_a_body_takes_no_worker(pages: Served) -> None:
    head = b"POST /_dash-update-component HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    for _ in range(2 * WORKERS):
        pages.connect(head + b"Content-Length: 90000\r\n\r\n" + b"{" * 80_000)
    assert b"dash" in pages.ask()[1]
    whole = pages.connect(head + b"Content-Length: 2\r\nConnection: close\r\n\r\n{")
    whole.sendall(b"}")
    assert b" 400 " in rest(whole).partition(b"\r\n")[0]  # {} is no callback: the pages' own answer


def test_an_answer_that_nobody_reads_takes_no_worker(pages: Served) -> None:
    _, page = pages.ask()
    scripts = [part.split(b'"')[0].decode() for part in page.split(b'src="')[1:]]
    sizes = {path: len(pages.ask(path)[1]) for path in scripts}
    largest = max(sizes, key=lambda path: sizes[path])
    assert sizes[largest] > 1 << 20
    for _ in range(2 * WORKERS):
        pages.connect(f"GET {largest} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode(), received=4096)
    for path in scripts:
        assert pages.ask(path)[0] == 200
