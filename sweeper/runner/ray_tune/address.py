"""Which Ray a sweep runs on: a local one, or a cluster by `--address` or `RAY_ADDRESS`; is it there, and its token."""

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
"""Set where Ray's job server started this process: the cluster is there."""
_NODES_ONLY = (
    "only a node of the cluster can join it: make this machine one by `ray start --address HEAD:PORT --num-cpus 0` and "
    "use --address auto, or hand the sweep to the job server by `sweeper submit`"
)


def resolve_address(spec: SweepSpec, say: Callable[[str], None] = lambda _: None) -> SweepSpec:
    """Return the sweep with the address it runs at: the flag's or the file's, else `RAY_ADDRESS`, else none.

    Args:
        spec: The sweep; address `local` starts a local Ray in any case.
        say: Called with a line where the environment decides.

    Raises:
        SpecError: `RAY_ADDRESS` is no address that a sweep can run at.
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
    """Return the token for Ray's token authentication, found as Ray finds it; empty where there is none.

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
    """Let Ray use the token that is at hand: with an explicit address it does not look for one by itself."""
    if "RAY_AUTH_MODE" not in os.environ and token():
        os.environ["RAY_AUTH_MODE"] = "token"


def check_reachable(address: str) -> None:
    """Check within 30 s that a Ray cluster answers at an address, before anything is written.

    Raises:
        SpecError: It cannot be reached, or it is of a kind that Tune cannot use.
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
    # Ray itself waits for minutes where something else listens, and cannot be interrupted: let a process try that can
    probe = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR')"
    try:
        done = subprocess.run(
            [sys.executable, "-c", probe, address],
            capture_output=True, text=True, timeout=PROBE_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise SpecError(
            f"cannot connect to Ray at {address}: no answer within {PROBE_SECONDS:g} s; {_NODES_ONLY}; or does it ask "
            "for a token (RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token)?"
        ) from None
    if "raylet_ipc_client" in done.stderr:  # without a node of its own on this machine, Ray's client ends so
        raise SpecError(f"cannot connect to Ray at {address}: it is there, but {_NODES_ONLY}")
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
