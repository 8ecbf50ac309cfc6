"""Ray clusters by address: which one is meant, whether it answers, and with which token."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

from .specfile import SpecError

CONNECT_SECONDS, PROBE_SECONDS = 4.0, 20.0
LOCAL = "local"


def resolved(address: str | None) -> tuple[str | None, str]:
    """Return the cluster that an address means, None for a Ray of one's own, and a line where it needs saying.

    Without an address it is that in `RAY_ADDRESS`, where there is one; `local` is a Ray of one's own in any case.
    """
    if address == LOCAL:
        return None, ""
    named = os.environ.get("RAY_ADDRESS")
    if address is None and named and named != LOCAL:
        return named, f"joining the Ray cluster at {named} (RAY_ADDRESS; --address local starts a Ray of its own)"
    return address, ""


def use_token() -> bool:
    """Let Ray use the token that is at hand, which with an explicit address it does not look for; returns whether."""
    at_hand = "RAY_AUTH_TOKEN" in os.environ or "RAY_AUTH_TOKEN_PATH" in os.environ
    at_hand = at_hand or (Path.home() / ".ray" / "auth_token").is_file()
    if "RAY_AUTH_MODE" not in os.environ and at_hand:
        os.environ["RAY_AUTH_MODE"] = "token"
    return at_hand


def check_reachable(address: str) -> None:
    """Check within 30 s that a Ray cluster answers at an address, before anything is written.

    Raises:
        SpecError: It cannot be reached, or it is of a kind that Tune cannot use.
    """
    if address.startswith("ray://"):
        raise SpecError(
            f"Tune cannot run through the Ray client ({address}): run sweeper on the cluster with --address auto, or "
            "send the sweep there by `sweeper submit`"
        )
    if address.startswith(("http://", "https://")):
        raise SpecError(f"{address} takes jobs: use `sweeper submit --address {address}`")
    if address != "auto":
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise SpecError(f"address must be HOST:PORT, auto or local, got {address!r}")
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
        except OSError as error:
            raise SpecError(f"cannot connect to Ray at {address}: {error.strerror or error}") from None
    use_token()
    # Ray itself waits for minutes where something else listens, and cannot be interrupted: let a process try that can
    probe = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='ERROR')"
    try:
        done = subprocess.run(
            [sys.executable, "-c", probe, address],
            capture_output=True, text=True, timeout=PROBE_SECONDS, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise SpecError(f"cannot connect to Ray at {address}: no answer within {PROBE_SECONDS:g} s") from None
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise SpecError(f"cannot connect to Ray at {address}: {reason}")


def check_job_server(address: str, verify: bool | str) -> None:
    """Check that a job server answers, and choose how to authenticate; the token itself stays with Ray.

    Args:
        address: `http://HOST:PORT` or `https://...` of a cluster's dashboard.
        verify: Whether certificates are checked, or the file of the authority.

    Raises:
        SpecError: It is no such address, nothing answers, or a token is asked for and none is at hand.
    """
    if not address.startswith(("http://", "https://")):
        raise SpecError(f"address must be http://HOST:8265 or https://... of the cluster's dashboard, got {address!r}")
    context = None
    if address.startswith("https://"):
        context = ssl.create_default_context(cafile=verify if isinstance(verify, str) else None)
        if verify is False:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    url = f"{address.rstrip('/')}/api/authentication_mode"
    try:
        with urllib.request.urlopen(url, timeout=PROBE_SECONDS, context=context) as answer:
            mode = json.loads(answer.read()).get("authentication_mode")
    except urllib.error.HTTPError:
        mode = None  # of a Ray before there were tokens
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise SpecError(f"cannot reach a job server at {address}: {reason}") from None
    if mode == "token":
        os.environ.pop("RAY_AUTH_MODE", None)
        if not use_token():
            raise SpecError(
                f"the cluster at {address} asks for a token: set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH, or put it into "
                "~/.ray/auth_token"
            )
    else:
        os.environ["RAY_AUTH_MODE"] = "disabled"
