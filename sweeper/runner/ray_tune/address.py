"""Address of the Ray that a sweep runs on, by `--address` or `RAY_ADDRESS`, its token, and a check that it answers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from sweeper.config.spec import SweepSpec
from sweeper.errors import SpecError
from sweeper.runner.ray_tune.own_ray import users_token

CONNECT_SECONDS, PROBE_SECONDS = 4.0, 20.0
LOCAL = "local"
IN_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Environment variable of processes that Ray's job server starts, which can reach the cluster."""
_NODES_ONLY = (
    "only a node of the cluster can join it: make this machine one by `ray start --address HEAD:PORT --num-cpus 0` and "
    "use --address auto, or hand the sweep to the job server by `sweeper submit`"
)


def resolve_address(spec: SweepSpec, say: Callable[[str], None] = lambda _: None) -> SweepSpec:
    """Return the sweep with the address of its Ray: its own, else `RAY_ADDRESS`, else none.

    Args:
        spec: The sweep; address `local` always starts a local Ray.
        say: Called with a line if `RAY_ADDRESS` decides.

    Raises:
        SpecError: `RAY_ADDRESS` is the address of a job server.
    """
    if spec.runner != "ray":
        return spec
    if spec.address:
        return spec.model_copy(update={"address": None}) if spec.address == LOCAL else spec
    given = os.environ.get("RAY_ADDRESS", "").strip()
    if not given or given == LOCAL:
        return spec
    if given.startswith(("http://", "https://")):
        raise SpecError(
            f"RAY_ADDRESS is a job server's ({given}): `sweeper submit` hands a sweep to it, --address {LOCAL} runs it "
            "here"
        )
    say(f"joining the Ray cluster at {given} (RAY_ADDRESS); --address {LOCAL} starts a local Ray")
    return spec.model_copy(update={"address": given})


def token(environment: Mapping[str, str] | None = None) -> str:
    """Return the token for Ray's token authentication, from the places where Ray looks; empty without one.

    Raises:
        SpecError: The file that `RAY_AUTH_TOKEN_PATH` names cannot be read.
    """
    known = os.environ if environment is None else environment
    if given := known.get("RAY_AUTH_TOKEN", "").strip():
        return given
    named = known.get("RAY_AUTH_TOKEN_PATH")
    file = Path(named).expanduser() if named else users_token()
    try:
        return file.read_text().strip()
    except OSError as error:
        if named:
            raise SpecError(f"cannot read RAY_AUTH_TOKEN_PATH {file}: {error.strerror or error}") from None
        return ""


def use_token() -> None:
    """Make Ray use the token, which it does not look for with an explicit address."""
    if "RAY_AUTH_MODE" not in os.environ and token():
        os.environ["RAY_AUTH_MODE"] = "token"


def check_reachable(address: str) -> None:
    """Check within 30 s that a Ray cluster answers at an address.

    Raises:
        SpecError: No cluster answers, or Tune cannot use this kind of address.
    """
    _check_form(address)
    use_token()
    if IN_JOB in os.environ:
        return
    if address != "auto":
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
        except OSError as error:
            raise SpecError(f"cannot connect to Ray at {address}: {error.strerror or error}") from None
    # if another program listens there, Ray waits for minutes and cannot be interrupted; a process can be ended
    probe = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR')"
    try:
        done = subprocess.run(
            [sys.executable, "-c", probe, address],
            capture_output=True, text=True, timeout=PROBE_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise SpecError(
            f"cannot connect to Ray at {address}: no answer within {PROBE_SECONDS:g} s; {_NODES_ONLY}; or set the "
            "cluster's token (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token)"
        ) from None
    if "raylet_ipc_client" in done.stderr:  # the error of Ray's client on a machine that is no node
        raise SpecError(f"cannot connect to Ray at {address}: the cluster answers, but {_NODES_ONLY}")
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise SpecError(f"cannot connect to Ray at {address}: {reason}")


def _check_form(address: str) -> None:
    if address.startswith("ray://"):
        raise SpecError(
            f"Tune cannot run through the Ray client ({address}): run sweeper on the cluster with --address auto, or "
            "hand the sweep to its job server by `sweeper submit`"
        )
    if address.startswith(("http://", "https://")):
        raise SpecError(f"{address} is a job server's address: `sweeper submit` hands sweeps to it")
    host, _, port = address.rpartition(":")
    if address != "auto" and (not host or not port.isdigit() or int(port) > 65535):
        raise SpecError(f"address must be HOST:PORT, auto or {LOCAL}, got {address!r}")
