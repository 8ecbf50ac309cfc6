"""Outputs of jobs on a cluster, of tokens and of a service; those of a service are the records of its API."""

from __future__ import annotations

from typing import Any

from sweeper.cli.schemas.base import Output, say
from sweeper.cli.schemas.sweeps import Advice
from sweeper.client.models import RegimeView, Sweep, TokenView


class JobSubmission(Output):
    """A submitted job: `submit`."""

    job: str = say("id of the job")
    address: str = say("address of the job server")
    out: str = say("run folder or URI of the sweep")


class Job(Output):
    """A job: `status JOB` and `stop JOB` with `--address`."""

    job: str | None = say("id of the job")
    status: str | None = say("status by Ray: PENDING, RUNNING, STOPPED, SUCCEEDED or FAILED")
    started: str | None = say("start, local time")
    ended: str | None = say("end, local time")
    exit_code: int | None = say("exit code of the sweep; null while the job runs")
    out: str | None = say("run folder or URI of the sweep")
    message: str | None = say("first line of Ray's message")
    log: list[str] = say("lines of the log, in `status`", sometimes=True)


class CreatedToken(TokenView):
    """A new token: `token create`."""

    token: str = say("the secret; it is shown only once")


class TokenList(Output):
    """Tokens: `token list`."""

    items: list[TokenView] = say("the tokens")


class SweepList(Output):
    """Sweeps of a service: `list --server`."""

    items: list[Sweep] = say("the sweeps, newest first")


class ServiceResults(Output):
    """Results of a sweep on a service: `best ID --server`, and `run`, `resume` and `extend` that follow it."""

    id: str = say("id of the sweep")
    state: str = say("state of the sweep")
    objective: str = say("objective that ranks the trials")
    trials: int = say("rows of the trials table")
    counts: dict[str, int] = say("outcome -> trials")
    device_seconds: float = say("device time of all trials [s]")
    proxy_only: bool = say("whether all trials so far had a share of the training budget")
    regimes: dict[str, RegimeView] = say("objective -> its best noise")
    best: dict[str, Any] | None = say("the winner, as in `best`; null without one")
    recommendations: dict[str, Advice] = say("objective -> settings that reach its best noise")
    warnings: list[str] = say("reasons to doubt numbers")
    page: str = say("address of the page")
    saved: str = say("file or folder of the weights, with `--save`", sometimes=True)
    card: str = say("file of the model card, with `--save`", sometimes=True)
    discarded: float = say("share of the merged update's squared norm that an adapter lacks, with `--rank`",
                           sometimes=True)  # fmt: skip


class ServicePage(Output):
    """Page of a sweep on a service: `dashboard --server`."""

    page: str = say("address of the page")
