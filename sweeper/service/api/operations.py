"""Routes: whether the service works, who asks, who did what."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Query, Response

from sweeper.client.models import ACTIVE, AuditPage, Health, Me, TokenView, Used
from sweeper.service.api import examples, metrics
from sweeper.service.api.auth import Admin, Viewer
from sweeper.service.api.dependencies import TEXT, Asked, answer, plain_json
from sweeper.service.api.examples import shown
from sweeper.service.api.problems import documented
from sweeper.service.policy.errors import RefusedError
from sweeper.service.policy.quotas import WINDOW_SECONDS
from trainables import __version__

router = APIRouter(tags=["operations"])
_HEALTH = {"status": "ok", "version": __version__}
LATE_SECONDS = 60.0
"""After so long without a look at the sweeps the service is not ready."""


@router.get(
    "/healthz",
    response_model=Health,
    summary="Whether the process answers",
    responses={**documented(), **shown(_HEALTH, "It does.")},
)
async def get_health() -> Response:
    """Say that the process answers; nothing else is looked at."""
    return answer(Health(version=__version__))


@router.get(
    "/readyz",
    response_model=Health,
    summary="Whether the service can work",
    responses={**documented(), **shown(_HEALTH, "It can.")},
)
async def get_readiness(api: Asked) -> Response:
    """Say whether the database answers, the state is there, there is room to write, and sweeps are looked after."""
    if api.closing.is_set():
        raise RefusedError(503, "the service is ending", {"Retry-After": "10"})
    if trouble := await api.service.health.look():
        raise RefusedError(503, trouble, {"Retry-After": "5"})
    seconds = time.monotonic() - api.service.supervisor.looked
    if seconds > LATE_SECONDS:
        said = f"the service last looked after its sweeps {seconds:.0f} s ago; its log says what holds it up"
        raise RefusedError(503, said, {"Retry-After": "10"})
    return answer(Health(version=__version__))


@router.get(
    "/metrics",
    response_class=Response,
    summary="Numbers for Prometheus",
    responses={
        **documented(),
        200: {
            "description": "Prometheus' text format.",
            "content": {"text/plain": {"schema": {"type": "string"}, "example": 'sweeper_sweeps{state="done"} 3.0\n'}},
        },
    },
)
def get_metrics(api: Asked, user: Viewer) -> Response:
    """Count requests, sweeps, trials, the queue and processes."""
    return Response(api.metrics.text(), media_type=metrics.MEDIA)


@router.get(
    "/v1/me",
    response_model=Me,
    summary="Who I am",
    responses={**documented(), **shown(examples.ME, "The token's user.")},
)
def get_me(api: Asked, user: Viewer) -> Response:
    """Say whose token this is, and how much of the quota is used."""
    catalog = api.service.catalog
    trials, hours = catalog.used(user.name, time.time() - WINDOW_SECONDS)
    due = catalog.due(user.name)
    running = sum(entry.owner == user.name for entry in catalog.in_states(ACTIVE))
    used = Used(
        running=running, waiting=due.waiting, trials=trials, gpu_hours=hours,
        due_trials=due.trials, due_gpu_hours=due.gpu_hours,
    )  # fmt: skip
    return answer(Me(user=user.name, role=user.role, quota=user.quota, used=used))


@router.get(
    "/v1/audit",
    response_model=AuditPage,
    summary="Who did what",
    responses={**documented(), **shown(examples.AUDIT, "Entries, the newest first.")},
)
def list_audit(
    api: Asked,
    user: Admin,
    name: Annotated[
        str | None,
        Query(alias="user", max_length=80, pattern=TEXT, description="Only this user's."),
    ] = None,
    after: Annotated[int | None, Query(ge=0, lt=2**63, description="`next` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="Entries of a page.")] = 100,
) -> Response:
    """List what changed something, also what was refused; for admins."""
    found = api.audit.entries(after, limit + 1, name)
    more = str(found[limit - 1].id) if len(found) > limit else None
    return answer(AuditPage(items=tuple(found[:limit]), next=more))


@router.get(
    "/v1/tokens",
    response_model=list[TokenView],
    summary="List tokens",
    responses={**documented(), **shown(examples.TOKENS, "Tokens without their secrets, the newest first.")},
)
def list_tokens(api: Asked, user: Admin) -> Response:
    """List all tokens; for admins."""
    return Response(plain_json([t.model_dump(mode="json") for t in api.service.users.tokens()]),
                    media_type="application/json")  # fmt: skip
