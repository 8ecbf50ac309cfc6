"""What the service's API answers with; the client reads the same records. Times are UTC, durations seconds."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Literal, overload

from pydantic import BaseModel, ConfigDict, Field


@overload
def moment(seconds: float) -> datetime: ...
@overload
def moment(seconds: None) -> None: ...
def moment(seconds: float | None) -> datetime | None:
    """Return a time of the database, seconds since 1970, as the API has it; None stays None."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


class State(StrEnum):
    """Where a sweep is on its way."""

    QUEUED = "queued"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"

    @property
    def ended(self) -> bool:
        """Whether no process runs and none is waited for."""
        return self in ENDED

    @property
    def active(self) -> bool:
        """Whether a process runs, or is being started."""
        return self in ACTIVE


ENDED = (State.DONE, State.FAILED, State.CANCELLED, State.INTERRUPTED)
ACTIVE = (State.STARTING, State.RUNNING, State.STOPPING)

ALLOWED: dict[State, tuple[State, ...]] = {
    State.QUEUED: (State.STARTING, State.CANCELLED),
    State.STARTING: (State.RUNNING, State.STOPPING, State.QUEUED, *ENDED),
    State.RUNNING: (State.STOPPING, State.QUEUED, *ENDED),
    State.STOPPING: (State.QUEUED, *ENDED),
    **dict.fromkeys(ENDED, (State.QUEUED,)),
}
"""State -> states that may follow; a sweep that ended is queued again by resume and extend."""


class Role(StrEnum):
    """What a token may do: viewers read, submitters also send and steer their own sweeps, admins everything."""

    VIEWER = "viewer"
    SUBMITTER = "submitter"
    ADMIN = "admin"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class Transition(_Record):
    """A change of a sweep's state: when, and why."""

    state: State
    time: datetime
    cause: str


class Progress(_Record):
    """How far a sweep is, in configurations; `trials` counts the rows of its table."""

    budget: int
    done: int = 0
    failed: int = 0
    trials: int = 0
    outcomes: dict[str, int] = Field(default_factory=dict, description="Trials by outcome.")


class Cost(_Record):
    """What a sweep has used."""

    device_seconds: float = Field(default=0.0, description="Training time of the finished trials.")
    gpu_hours: float = Field(default=0.0, description="Device time times GPUs held; 0 on CPUs.")
    wall_seconds: float = Field(default=0.0, description="Time in which a process of the sweep ran.")


class RegimeView(_Record):
    """The best noise found so far; None where the trials do not show one."""

    objective: str
    noise: str
    unit: str
    optimum: float | None = None
    low: float | None = Field(default=None, description="Lower end of the 90 % interval.")
    high: float | None = Field(default=None, description="Upper end of the 90 % interval.")
    message: str = Field(default="", description="The verdict in a sentence.")


class BestView(_Record):
    """The configuration that wins so far."""

    digest: str
    config: str
    objective: str
    value: float | None = Field(default=None, description="Mean of the objective over the configuration's repeats.")
    noise: float | None = None
    knobs: dict[str, Any] = Field(default_factory=dict)


class Sweep(_Record):
    """A sweep as the service knows it."""

    id: str
    name: str
    owner: str
    shared: bool = Field(default=False, description="Whether all users may see it.")
    space: str
    sampler: str
    objective: str
    state: State
    reason: str = Field(default="", description="Why it is in this state.")
    priority: int = Field(default=0, description="Higher ones of a user start first; above 0 ahead of all, for admins.")
    position: int | None = Field(default=None, description="Place in the queue, from 1; None where it does not wait.")
    created: datetime
    started: datetime | None = None
    ended: datetime | None = None
    progress: Progress
    cost: Cost = Cost()
    regime: RegimeView | None = None
    best: BestView | None = None
    warnings: tuple[str, ...] = ()
    run: str = Field(description="What commands call it: its id, with `--server`.")
    url: str = Field(description="Where the API answers for it.")
    page: str = Field(description="Its dashboards.")


class SweepDetail(Sweep):
    """A sweep with its spec and its history."""

    spec: dict[str, Any]
    transitions: tuple[Transition, ...] = ()


class SweepPage(_Record):
    """Sweeps, the newest first."""

    items: tuple[Sweep, ...]
    next: str | None = Field(default=None, description="Give it as `after` for the next page; None on the last one.")


class TrialPage(_Record):
    """Trials in the order in which they landed: a row of the trials table each."""

    items: tuple[dict[str, Any], ...]
    next: str = Field(description="Give it as `after`: what lands later is on the following pages.")
    more: bool = Field(description="Whether there are trials behind this page by now.")


class Estimate(_Record):
    """What a sweep will cost, as far as earlier sweeps of its space tell."""

    configurations: int
    trials: int
    seconds_per_trial: float | None = Field(default=None, description="Median device time of such trials.")
    device_seconds: float | None = None
    wall_seconds: float | None = Field(default=None, description="At as many trials at a time as the cluster takes.")
    based_on: tuple[str, ...] = Field(default=(), description="Sweeps that the times come from.")
    message: str = ""


class Submitted(_Record):
    """A sweep that was accepted."""

    id: str
    url: str
    state: State
    estimate: Estimate


class Extension(_Record):
    """What `extend` is going to run."""

    id: str
    trials: int
    message: str
    dry_run: bool = False


class Advice(_Record):
    """Hyperparameters that reach the best noise of one objective."""

    objective: str
    message: str
    recommendations: tuple[dict[str, Any], ...]
    text: str


class Event(_Record):
    """What happened to a sweep: `trial`, `target`, `verdict`, `state`, or `progress`."""

    id: int
    sweep: str
    type: Literal["trial", "target", "verdict", "state", "progress"]
    time: datetime
    data: dict[str, Any]


class Problem(_Record):
    """An error, as RFC 9457 writes it."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    instance: str = ""


class Quota(_Record):
    """What a user may have; None is no limit."""

    running: int | None = Field(default=None, description="Sweeps that run at a time; more of them wait.")
    waiting: int | None = Field(default=100, description="Sweeps that wait at a time; more of them are refused.")
    trials: int | None = Field(
        default=None, description="Trials run in the last 30 days, and those that sweeps may still run."
    )
    gpu_hours: float | None = Field(
        default=None, description="GPU-hours of the last 30 days, and what sweeps have left of their `max_gpu_hours`."
    )


class TokenView(_Record):
    """A token without its secret."""

    id: str
    user: str
    role: Role
    created: datetime
    expires: datetime | None = None
    revoked: datetime | None = None
    quota: Quota = Quota()


class AuditEntry(_Record):
    """Who did what."""

    id: int
    time: datetime
    user: str
    action: str
    target: str
    detail: str
    status: int


class AuditPage(_Record):
    """What was done, the newest first."""

    items: tuple[AuditEntry, ...]
    next: str | None = Field(default=None, description="Give it as `after` for the next page; None on the last one.")


class Used(_Record):
    """What a user has used of the quota."""

    running: int = Field(default=0, description="Sweeps that run.")
    waiting: int = Field(default=0, description="Sweeps that wait.")
    trials: int = Field(default=0, description="Trials run in the last 30 days.")
    gpu_hours: float = Field(default=0.0, description="GPU-hours of these trials.")
    due_trials: int = Field(default=0, description="Trials that sweeps that wait or run may still run.")
    due_gpu_hours: float = Field(default=0.0, description="What these sweeps have left of their `max_gpu_hours`.")


class Me(_Record):
    """Who asks."""

    user: str
    role: Role
    quota: Quota = Quota()
    used: Used = Used()


class Health(_Record):
    """Whether the service works."""

    status: Literal["ok"] = "ok"
    version: str
