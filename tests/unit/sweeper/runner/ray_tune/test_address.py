"""Which Ray a sweep runs on, and which token is at hand."""

import re
import subprocess
from pathlib import Path

import pytest

from sweeper.config.spec import SweepSpec
from sweeper.errors import SpecError
from sweeper.runner.ray_tune.address import check_reachable, resolve_address, token


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_JOB_CONFIG_JSON_ENV_VAR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def spec(**values: object) -> SweepSpec:
    return SweepSpec.checked({"space": "synthetic", **values})


def test_the_flag_wins_over_the_environment_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    assert resolve_address(spec(), said.append).address is None
    assert resolve_address(spec(address="local"), said.append).address is None
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert resolve_address(spec(address="10.0.0.2:6379"), said.append).address == "10.0.0.2:6379"
    assert resolve_address(spec(address="local"), said.append).address is None
    assert resolve_address(spec(runner="inline"), said.append).address is None
    assert said == []
    assert resolve_address(spec(), said.append).address == "10.0.0.1:6379"
    assert said == ["joining the Ray cluster at 10.0.0.1:6379 (RAY_ADDRESS); --address local starts a local Ray"]


def test_a_job_servers_address_is_none_for_a_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://10.0.0.1:8265")
    with pytest.raises(SpecError, match=r"RAY_ADDRESS is a job server's .*`sweeper submit`"):
        resolve_address(spec())


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ray://head:10001", "cannot run through the Ray client"),
        ("http://head:8265", "`sweeper submit` hands sweeps to it"),
        ("head", "must be HOST:PORT, auto or local"),
        ("head:99999", "must be HOST:PORT, auto or local"),
        ("127.0.0.1:1", "cannot connect to Ray at 127.0.0.1:1: Connection refused"),
    ],
)
def test_addresses_that_lead_nowhere(address: str, message: str) -> None:
    with pytest.raises(SpecError, match=message):
        check_reachable(address)


@pytest.mark.parametrize(
    ("ended", "message"),
    [
        (subprocess.TimeoutExpired("ray", 20), "no answer within 20 s; only a node of the cluster can join it"),
        ((1, "raylet_ipc_client.cc:85: Failed to connect to socket\n*** StackTrace ***\npython(_start+0x21)\n"),
         "the cluster answers, but only a node of the cluster can join it: make this machine one by `ray start "),
        ((1, "Traceback:\nRuntimeError: it is another version\n"), "RuntimeError: it is another version"),
    ],
    ids=["silence", "no node", "said"],
)  # fmt: skip
def test_the_error_on_a_machine_that_is_no_node_says_the_way_out(
    ended: Exception | tuple[int, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: object, **__: object) -> subprocess.CompletedProcess[str]:
        if isinstance(ended, Exception):
            raise ended
        return subprocess.CompletedProcess([], ended[0], stderr=ended[1])

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(SpecError, match=re.escape(message)) as caught:
        check_reachable("auto")
    assert "\n" not in str(caught.value)


def test_the_token_is_the_one_that_ray_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert token() == ""
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("from-home\n")
    assert token() == "from-home"
    (tmp_path / "named").write_text("from-file\n")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "named"))
    assert token() == "from-file"
    monkeypatch.setenv("RAY_AUTH_TOKEN", "from-environment")
    assert token() == "from-environment"
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "gone"))
    with pytest.raises(SpecError, match="cannot read RAY_AUTH_TOKEN_PATH"):
        token()
