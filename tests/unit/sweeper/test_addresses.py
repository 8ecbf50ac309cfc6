"""Which cluster an address means, and what is refused before anything is tried."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from sweeper.addresses import check_job_server, check_reachable, resolved
from sweeper.spec import SpecError, SweepSpec
from sweeper.submitting import PACKAGES, _environment, check_out, pack


@pytest.mark.parametrize(
    ("given", "named", "meant"),
    [(None, None, None), (None, "10.0.0.1:6379", "10.0.0.1:6379"), ("local", "10.0.0.1:6379", None),
     ("auto", "10.0.0.1:6379", "auto"), ("host:1", None, "host:1"), (None, "local", None)],
)  # fmt: skip
def test_ray_address_counts_where_none_is_given(
    given: str | None, named: str | None, meant: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if named:
        monkeypatch.setenv("RAY_ADDRESS", named)
    address, line = resolved(given)
    assert address == meant
    assert bool(line) == (given is None and meant is not None)
    assert not line or ("RAY_ADDRESS" in line and "--address local" in line)


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("ray://head:10001", r"cannot run through the Ray client \(ray://head:10001\): run sweeper on the cluster"),
        ("http://head:8265", r"takes jobs: use `sweeper submit --address http://head:8265`"),
        ("head", r"address must be HOST:PORT, auto or local, got 'head'"),
    ],
)
def test_an_address_of_another_kind_says_what_to_use(address: str, why: str) -> None:
    with pytest.raises(SpecError, match=why):
        check_reachable(address)


def test_a_job_server_that_is_not_there_is_said_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(SpecError, match=rf"cannot reach a job server at http://127.0.0.1:{port}: .*refused"):
        check_job_server(f"http://127.0.0.1:{port}", True)
    with pytest.raises(SpecError, match=r"address must be http://HOST:8265 or https://.* got '127.0.0.1:8265'"):
        check_job_server("127.0.0.1:8265", True)


@pytest.mark.parametrize("out", [None, "runs/a"])
def test_results_must_outlive_the_job(out: str | None) -> None:
    with pytest.raises(SpecError, match=r"--out must be a URI \(s3://...\) or an absolute path"):
        check_out(out)
    check_out("/shared/a")
    check_out("gs://bucket/a")


def test_a_job_carries_spec_space_and_package_and_no_caches(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("from search_spaces.synthetic import SPACE\n")
    folder = tmp_path / "job"
    folder.mkdir()
    pack(SweepSpec.checked({"space": str(file), "sampler": "random"}), folder)
    assert {p.name for p in folder.iterdir()} == {"sweep.yaml", "mine.py", *PACKAGES}
    assert "space: mine.py" in (folder / "sweep.yaml").read_text()
    assert str(tmp_path) not in (folder / "sweep.yaml").read_text()
    assert (folder / "dashboards" / "app.css").is_file()
    assert not list(folder.rglob("*.pyc"))


def test_environment_of_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERE", "1")
    assert _environment(["A=b=c", "HERE"]) == {"A": "b=c", "HERE": "1"}
    for wrong in ("NOT_HERE_AT_ALL", "1A=2", "=x"):
        with pytest.raises(SpecError, match=r"--env needs NAME=VALUE"):
            _environment([wrong])
