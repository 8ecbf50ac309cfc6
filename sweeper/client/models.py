"""Records of the service's API, shared by service and client. Times are UTC, durations are in seconds."""

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
    """Return seconds since 1970 as a time in UTC; None for None."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC)


class State(StrEnum):
    """State of a sweep."""

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
        """Whether the sweep neither waits nor runs."""
        return self in ENDED

    @property
    def active(self) -> bool:
        """Whether a process of the sweep starts, runs or stops."""
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
"""State -> states that may follow; resume and extend queue an ended sweep again."""


class Role(StrEnum):
    """What a token may do: viewers read, submitters also submit and control their sweeps, admins may do everything."""

    VIEWER = "viewer"
    SUBMITTER = "submitter"
    ADMIN = "admin"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class Transition(_Record):
    """A change of a sweep's state, with time and cause."""

    state: State
    time: datetime
    cause: str


class Progress(_Record):
    """Progress of a sweep: `budget`, `done` and `failed` count the sampler's proposals, each of `repeats` trials."""

    budget: int
    done: int = 0
    failed: int = 0
    repeats: int = Field(default=1, description="Trials per proposal.")
    trials: int = Field(default=0, description="Rows of the trials table.")
    outcomes: dict[str, int] = Field(default_factory=dict, description="Trials by outcome.")
    stage: str | None = Field(
        default=None, description="Stage of the latest trial: map, search or confirm; null in a sweep without stages."
    )


class Cost(_Record):
    """Resources that a sweep has used."""

    device_seconds: float = Field(default=0.0, description="Training time of the finished trials.")
    gpu_hours: float = Field(default=0.0, description="Device time times the number of GPUs; 0 on CPUs.")
    wall_seconds: float = Field(default=0.0, description="Time during which a process of the sweep ran.")
    stage_seconds: dict[str, float] = Field(
        default_factory=dict, description="Device time by stage: map, search and confirm; empty without stages."
    )
    proxy: float | None = Field(default=None, description="Share of the training budget at which the map ran.")
    summary: str = Field(default="", description="Device time by stage, and what was saved, in words.")
    saved_seconds: float = Field(
        default=0.0, description="Training time that the proxy and pruning left out, by the time per step."
    )


class RegimeView(_Record):
    """The best noise so far; `optimum` is None if the trials show none."""

    objective: str
    noise: str
    unit: str
    optimum: float | None = None
    low: float | None = Field(default=None, description="Lower end of the 90 % interval.")
    high: float | None = Field(default=None, description="Upper end of the 90 % interval.")
    message: str = Field(default="", description="The verdict as a sentence.")


class BestView(_Record):
    """The best configuration so far: by posterior mean, or by observed mean while the model has no favourite."""

    digest: str
    config: str
    objective: str
    value: float | None = Field(
        default=None, description="Observed mean of the objective over the configuration's repeats."
    )
    repeats: int = Field(default=1, description="Number of these repeats.")
    posterior_mean: float | None = Field(default=None, description="Null if the observed mean chose the winner.")
    posterior_sd: float | None = Field(
        default=None, description="Standard deviation of the posterior mean; null for a single repeat."
    )
    undecided: str = Field(default="", description="Reason why the model has no favourite.")
    noise: float | None = None
    knobs: dict[str, Any] = Field(default_factory=dict)


class SweepRecord(_Record):
    """Results of a sweep so far, the same on the command line, on the pages and from a service."""

    progress: Progress
    cost: Cost = Cost()
    regime: RegimeView | None = None
    best: BestView | None = None
    warnings: tuple[str, ...] = ()


class Sweep(SweepRecord):
    """A sweep of the service."""

    id: str
    name: str
    owner: str
    shared: bool = Field(default=False, description="Whether all users may see the sweep.")
    space: str
    sampler: str
    objective: str
    state: State
    reason: str = Field(default="", description="Reason for the state.")
    priority: int = Field(
        default=0, description="A user's sweeps start by priority; above 0, which needs an admin, before other users'."
    )
    position: int | None = Field(default=None, description="Position in the queue, from 1; null unless queued.")
    created: datetime
    started: datetime | None = None
    ended: datetime | None = None
    run: str = Field(description="Name of the sweep for commands with `--server`: its id.")
    url: str = Field(description="Path of the sweep in the API.")
    page: str = Field(description="Path of the sweep's dashboards.")


class SweepDetail(Sweep):
    """A sweep with its spec and history."""

    spec: dict[str, Any]
    transitions: tuple[Transition, ...] = ()


class SweepPage(_Record):
    """A page of sweeps, newest first."""

    items: tuple[Sweep, ...]
    next: str | None = Field(default=None, description="`after` of the next page; null on the last page.")


class TrialPage(_Record):
    """A page of trials, rows of the trials table in the order in which they landed."""

    items: tuple[dict[str, Any], ...]
    next: str = Field(description="`after` of the next page; later trials are on the following pages.")
    more: bool = Field(description="Whether the next page has trials now.")


class Estimate(_Record):
    """Estimated cost of a sweep, based on a pilot or on earlier sweeps of its space."""

    configurations: int
    trials: int
    seconds_per_trial: float | None = Field(default=None, description="Median device time of earlier trials.")
    device_seconds: float | None = None
    wall_seconds: float | None = Field(default=None, description="With as many parallel trials as the cluster runs.")
    gpu_hours: float | None = Field(default=None, description="From a pilot; 0 on a CPU.")
    based_on: tuple[str, ...] = Field(default=(), description="Ids of the earlier sweeps.")
    message: str = ""


class Submitted(_Record):
    """A submitted sweep."""

    id: str
    url: str
    state: State
    estimate: Estimate


class Extension(_Record):
    """The trials that `extend` runs."""

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


class SettingsAdvice(_Record):
    """Settings to use, one per batch size, with their texts; `formats` is empty for several settings."""

    settings: tuple[dict[str, Any], ...]
    text: str
    formats: dict[str, str]


class Event(_Record):
    """An event of a sweep, of the type `trial`, `target`, `verdict`, `best`, `state` or `progress`."""

    id: int
    sweep: str
    type: Literal["trial", "target", "verdict", "best", "state", "progress"]
    time: datetime
    data: dict[str, Any]


class Problem(_Record):
    """An error as a problem document (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    instance: str = ""


class Quota(_Record):
    """Limits of a user; null is no limit."""

    running: int | None = Field(default=None, description="Sweeps that run at a time; further ones wait.")
    waiting: int | None = Field(default=100, description="Sweeps that wait at a time; further ones are refused.")
    trials: int | None = Field(
        default=None, description="Trials of the last 30 days plus those that sweeps may still run."
    )
    gpu_hours: float | None = Field(
        default=None, description="GPU-hours of the last 30 days plus the rest of the sweeps' `max_gpu_hours`."
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
    """A request that changed something, or was refused."""

    id: int
    time: datetime
    user: str
    action: str
    target: str
    detail: str
    status: int


class AuditPage(_Record):
    """A page of the audit log, newest first."""

    items: tuple[AuditEntry, ...]
    next: str | None = Field(default=None, description="`after` of the next page; null on the last page.")


class Used(_Record):
    """Usage of a user's quota."""

    running: int = Field(default=0, description="Running sweeps.")
    waiting: int = Field(default=0, description="Waiting sweeps.")
    trials: int = Field(default=0, description="Trials of the last 30 days.")
    gpu_hours: float = Field(default=0.0, description="GPU-hours of these trials.")
    due_trials: int = Field(default=0, description="Trials that waiting and running sweeps may still run.")
    due_gpu_hours: float = Field(default=0.0, description="Rest of these sweeps' `max_gpu_hours`.")


class Me(_Record):
    """The user of the token."""

    user: str
    role: Role
    quota: Quota = Quota()
    used: Used = Used()


class Health(_Record):
    """Health of the service."""

    status: Literal["ok"] = "ok"
    version: str
