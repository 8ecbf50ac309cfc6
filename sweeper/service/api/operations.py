"""Routes for operation: health, metrics, current user, audit log, tokens."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Query, Response

from sweeper.client.models import ACTIVE, AuditPage, Health, Me, TokenView, Used
from sweeper.service.api import examples, metrics
from sweeper.service.api.auth import Admin, Viewer
from sweeper.service.api.dependencies import TEXT, ApiDependency, answer, plain_json
from sweeper.service.api.examples import example_response
from sweeper.service.api.problems import documented
from sweeper.service.policy.errors import RefusedError
from sweeper.service.policy.quotas import WINDOW_SECONDS
from trainables import __version__

router = APIRouter(tags=["operations"])
_HEALTH = {"status": "ok", "version": __version__}
LATE_SECONDS = 60.0
"""The service is not ready if its last check of all sweeps is older."""


@router.get(
    "/healthz",
    response_model=Health,
    summary="Check that the process answers",
    responses={**documented(), **example_response(_HEALTH, "The process answers.")},
)
async def get_health() -> Response:
    """Return 200 if the process answers; nothing else is checked."""
    return answer(Health(version=__version__))


@router.get(
    "/readyz",
    response_model=Health,
    summary="Check that the service is ready",
    responses={**documented(), **example_response(_HEALTH, "The service is ready.")},
)
async def get_readiness(api: ApiDependency) -> Response:
    """Check the database, the state folder, free disk space and the supervision of sweeps."""
    if api.closing.is_set():
        raise RefusedError(503, "the service is stopping", {"Retry-After": "10"})
    if trouble := await api.service.health.look():
        raise RefusedError(503, trouble, {"Retry-After": "5"})
    seconds = time.monotonic() - api.service.supervisor.looked
    if seconds > LATE_SECONDS:
        detail = f"the service last checked its sweeps {seconds:.0f} s ago; see its log"
        raise RefusedError(503, detail, {"Retry-After": "10"})
    return answer(Health(version=__version__))


@router.get(
    "/metrics",
    response_class=Response,
    summary="Get metrics for Prometheus",
    responses={
        **documented(),
        200: {
            "description": "Prometheus' text format.",
            "content": {"text/plain": {"schema": {"type": "string"}, "example": 'sweeper_sweeps{state="done"} 3.0\n'}},
        },
    },
)
def get_metrics(api: ApiDependency, user: Viewer) -> Response:
    """Return counts of requests, sweeps, trials, queued sweeps and processes."""
    return Response(api.metrics.text(), media_type=metrics.MEDIA)


@router.get(
    "/v1/me",
    response_model=Me,
    summary="Get the current user",
    responses={**documented(), **example_response(examples.ME, "The token's user.")},
)
def get_me(api: ApiDependency, user: Viewer) -> Response:
    """Return the token's user, role, quota and usage."""
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
    summary="Read the audit log",
    responses={**documented(), **example_response(examples.AUDIT, "Entries, newest first.")},
)
def list_audit(
    api: ApiDependency,
    user: Admin,
    name: Annotated[
        str | None,
        Query(alias="user", max_length=80, pattern=TEXT, description="Only entries of this user."),
    ] = None,
    after: Annotated[int | None, Query(ge=0, lt=2**63, description="`next` of the last page.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="Entries per page.")] = 100,
) -> Response:
    """List all requests to change something, refused ones included; admins only."""
    entries = api.audit.entries(after, limit + 1, name)
    more = str(entries[limit - 1].id) if len(entries) > limit else None
    return answer(AuditPage(items=tuple(entries[:limit]), next=more))


@router.get(
    "/v1/tokens",
    response_model=list[TokenView],
    summary="List tokens",
    responses={**documented(), **example_response(examples.TOKENS, "Tokens without secrets, newest first.")},
)
def list_tokens(api: ApiDependency, user: Admin) -> Response:
    """List all tokens; admins only."""
    return Response(plain_json([t.model_dump(mode="json") for t in api.service.users.tokens()]),
                    media_type="application/json")  # fmt: skip
