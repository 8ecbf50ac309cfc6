"""Routes: sweeps are sent, listed, steered and forgotten."""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import APIRouter, Header, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from sweeper.client.models import ENDED, Estimate, Extension, State, Submitted, Sweep, SweepDetail, SweepPage
from sweeper.config.spec import SweepSpec
from sweeper.errors import SpecError
from sweeper.service.api import examples
from sweeper.service.api.auth import Submitter, Viewer, noted
from sweeper.service.api.dependencies import TEXT, Api, Asked, Plain, SweepId, answer, body_of
from sweeper.service.api.examples import shown
from sweeper.service.api.problems import documented
from sweeper.service.api.turns import Expensive
from sweeper.service.db.sweeps import Entry, NewSweep, StateError, fingerprint
from sweeper.service.db.users import User
from sweeper.service.policy.admission import Admission, SpecChange, admit, check_changes
from sweeper.service.policy.bodies import JSON_TYPES, YAML_TYPES, media_type, parse_spec
from sweeper.service.policy.errors import RefusedError, forbidden
from sweeper.service.policy.limits import Limits
from sweeper.service.policy.quotas import Demand, remaining_demand, remaining_gpu_hours
from sweeper.service.webhooks import check_url

router = APIRouter(prefix="/v1/sweeps", tags=["sweeps"])
_PLAIN = {"pattern": TEXT}
_SPEC_BODY = {
    "requestBody": {
        "required": True,
        "description": "The spec, as `sweeper run spec.yaml` reads it.",
        "content": {
            JSON_TYPES[0]: {"schema": {"$ref": "#/components/schemas/SweepSpec"}, "example": examples.SPEC},
            **{t: {"schema": {"type": "string"}, "example": examples.SPEC_YAML} for t in YAML_TYPES},
        },
    }
}
_CHANGES_BODY = {
    "requestBody": {
        "required": False,
        "description": "Keys of the spec that change: `trials`, and those about machines and limits.",
        "content": {
            JSON_TYPES[0]: {
                "schema": {"$ref": "#/components/schemas/Changes"},
                "example": {"trials": 60, "max_seconds": 3600},
            }
        },
    }
}


@dataclass(frozen=True)
class _Sent:
    """A request to run a sweep."""

    body: bytes
    media: str
    name: str
    priority: int
    shared: bool
    webhook: str | None
    key: str | None


@router.post(
    "",
    status_code=202,
    response_model=Submitted,
    summary="Send a sweep",
    responses={
        **documented(400, 409, 415),
        **shown(examples.SUBMITTED, "It waits in the queue.", 202, Location="Where the API answers for it."),
        200: {
            "description": "What it would cost (`dry_run`).",
            "content": {
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/Estimate"},
                    "example": examples.ESTIMATE,
                }
            },
        },
    },
    openapi_extra=_SPEC_BODY,
    dependencies=[Expensive],
)
async def submit_sweep(
    request: Request,
    api: Asked,
    user: Submitter,
    name: Annotated[
        Plain, Query(max_length=200, json_schema_extra=_PLAIN, description="What to call it.", examples=["tries"])
    ] = "",
    priority: Annotated[int, Query(ge=-100, le=100, description="Above 0 for admins only.")] = 0,
    shared: Annotated[bool, Query(description="Whether all users may see it.")] = False,
    dry_run: Annotated[bool, Query(description="Only say what it would cost.")] = False,
    webhook: Annotated[
        Plain | None,
        Query(max_length=2000, json_schema_extra=_PLAIN, description="Where to post when it is done or failed."),
    ] = None,
    idempotency_key: Annotated[
        str | None,
        Header(
            min_length=1,
            max_length=255,
            pattern=r"^[\x21-\x7e]+$",
            description="The same request with the same key makes one sweep, however often it is sent.",
            examples=["3f0c9c1e"],
        ),
    ] = None,
) -> Response:
    """Queue a sweep: all of it is checked first, in the command line's words, and nothing is half-created."""
    media = media_type(request.headers.get("content-type", ""))
    sent = _Sent(await body_of(request, api.limits.spec), media, name, priority, shared, webhook, idempotency_key)
    noted(request, action="estimate_sweep" if dry_run else "submit_sweep")
    if dry_run:
        return answer(await api.turn(request, _estimated, api, user, sent))
    entry, estimate = await api.turn(request, _queued, api, user, sent)
    noted(request, target=entry.id)
    url = f"/v1/sweeps/{entry.id}"
    record = Submitted(id=entry.id, url=url, state=State(entry.state), estimate=estimate)
    return answer(record, 202, {"Location": url})


def _admitted(api: Api, user: User, sent: _Sent) -> Admission:
    if sent.priority > 0 and not user.admin:
        raise forbidden(f"a priority above 0 needs an admin's token, got {sent.priority}")
    if sent.webhook is not None:
        check_url(sent.webhook, api.service.config.webhooks)
    with api.turns.computing:
        values, lines = parse_spec(sent.body, sent.media, api.limits)
        return admit(values, lines, api.rules, user, lambda sweep: api.seen(user, sweep))


def _estimated(api: Api, user: User, sent: _Sent) -> Estimate:
    return api.estimates.of(_admitted(api, user, sent), user)


def _queued(api: Api, user: User, sent: _Sent) -> tuple[Entry, Estimate]:
    admitted = _admitted(api, user, sent)
    asked = (sent.body.decode(), sent.media, sent.name, sent.priority, sent.shared, sent.webhook)
    new = NewSweep(
        owner=user.name,
        space=admitted.space,
        spec=admitted.values,
        budget=admitted.budget,
        trials=admitted.trials,
        name=sent.name,
        shared=sent.shared,
        priority=sent.priority,
        webhook=sent.webhook,
        key=sent.key,
        fingerprint=fingerprint(*asked) if sent.key else None,
    )
    estimate = api.estimates.of(admitted, user)
    with api.sending:
        entry = api.service.catalog.find_by_key(new)
        if entry is None:
            api.check_quota(user, None, Demand(admitted.trials, admitted.spec.max_gpu_hours or 0.0))
            entry, _ = api.service.catalog.add(new)
    api.service.supervisor.wake()
    return entry, estimate


@router.get(
    "",
    response_model=SweepPage,
    summary="List sweeps",
    responses={**documented(), **shown(examples.PAGE, "A page of sweeps, the newest first.")},
)
def list_sweeps(
    api: Asked,
    user: Viewer,
    state: Annotated[list[State] | None, Query(max_length=8, description="Only those in one of these states.")] = None,
    owner: Annotated[str | None, Query(max_length=80, pattern=TEXT, description="Only this user's.")] = None,
    space: Annotated[str | None, Query(max_length=200, pattern=TEXT, description="Only those of this space.")] = None,
    after: Annotated[str | None, Query(max_length=400, pattern=TEXT, description="`next` of the page before.")] = None,
    limit: Annotated[int, Query(ge=1, le=200, description="Sweeps of a page.")] = 50,
) -> Response:
    """List the sweeps that one may see: one's own and the shared ones, all for admins."""
    rows = api.service.catalog.page(
        seen_by=None if user.admin else user.name,
        states=state or (),
        owner=owner,
        space=space,
        after=_read_cursor(after) if after else None,
        limit=limit + 1,
    )
    items = tuple(api.service.views.sweep(entry) for entry in rows[:limit])
    more = _cursor(rows[limit - 1]) if len(rows) > limit else None
    return answer(SweepPage(items=items, next=more))


def _cursor(entry: Entry) -> str:
    return base64.urlsafe_b64encode(json.dumps([entry.created, entry.id]).encode()).decode().rstrip("=")


def _read_cursor(text: str) -> tuple[float, str]:
    try:
        created, sweep = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        if not isinstance(created, float) or not math.isfinite(created) or not isinstance(sweep, str) or "\0" in sweep:
            raise ValueError
        sweep.encode()
    except (ValueError, binascii.Error, TypeError, RecursionError):
        raise SpecError(f"after must be the `next` of a page, got {text[:80]!r}") from None
    return created, sweep


@router.get(
    "/{sweep}",
    response_model=SweepDetail,
    summary="Look at a sweep",
    responses={**documented(404), **shown(examples.DETAIL, "The sweep, its spec and its history.")},
)
def get_sweep(api: Asked, user: Viewer, sweep: SweepId) -> Response:
    """Say how a sweep is: state and why, progress, cost, the best noise so far, the winner, warnings."""
    return answer(api.service.views.detail(api.seen(user, sweep)))


@router.delete(
    "/{sweep}",
    status_code=204,
    response_class=Response,
    summary="Forget a sweep",
    responses={**documented(404, 409), 204: {"description": "It is gone."}},
)
def delete_sweep(
    api: Asked,
    user: Viewer,
    sweep: SweepId,
    confirm: Annotated[str, Query(max_length=80, pattern=TEXT, description="The id once more.")] = "",
) -> Response:
    """Forget a sweep that ended; `confirm` must repeat its id."""
    entry = api.steered(user, sweep)
    if confirm != entry.id:
        raise SpecError(f"confirm must be the sweep's id, {entry.id}, got {confirm!r}: nothing is deleted")
    if entry.state not in ENDED:
        raise StateError(f"sweep {sweep} is {entry.state}: cancel it first")
    api.service.supervisor.remove(entry.id)
    return Response(status_code=204)


@router.post(
    "/{sweep}/stop",
    status_code=202,
    response_model=Sweep,
    summary="Stop a sweep",
    responses={**documented(404, 409), **shown(examples.SWEEP, "It ends when what runs is finished.", 202)},
)
def stop_sweep(api: Asked, user: Viewer, sweep: SweepId) -> Response:
    """Start no new configurations; those that run are finished, and the sweep is done."""
    entry = api.steered(user, sweep)
    return answer(api.service.views.sweep(api.service.supervisor.stop(entry.id, user.name)), 202)


@router.post(
    "/{sweep}/cancel",
    status_code=202,
    response_model=Sweep,
    summary="Cancel a sweep",
    responses={**documented(404, 409), **shown(examples.SWEEP, "Its process is killed.", 202)},
)
def cancel_sweep(api: Asked, user: Viewer, sweep: SweepId) -> Response:
    """Kill what runs; finished trials are kept, and `resume` goes on."""
    entry = api.steered(user, sweep)
    return answer(api.service.views.sweep(api.service.supervisor.cancel(entry.id, user.name)), 202)


@router.post(
    "/{sweep}/resume",
    status_code=202,
    response_model=Sweep,
    summary="Resume a sweep",
    responses={**documented(400, 404, 409, 415), **shown(examples.SWEEP, "It waits in the queue again.", 202)},
    openapi_extra=_CHANGES_BODY,
    dependencies=[Expensive],
)
async def resume_sweep(request: Request, api: Asked, user: Viewer, sweep: SweepId) -> Response:
    """Go on with a sweep that ended, as it is or with more `trials` or other machines."""
    entry = await run_in_threadpool(api.steered, user, sweep)
    body = await body_of(request, api.limits.spec)
    changes = await api.turn(request, _changes, body, media_type(request.headers.get("content-type", "")))
    if changes:
        noted(request, detail=body.decode())
    return answer(await api.turn(request, _resumed, api, user, entry, changes), 202)


def _changes(body: bytes, media: str) -> Mapping[str, Any]:
    if not body.strip():
        return {}
    if media not in JSON_TYPES:
        raise RefusedError(415, f"changes must be application/json, got {media[:80]!r}")
    values, _ = parse_spec(body, media, Limits())
    return values


def _resumed(api: Api, user: User, entry: Entry, changes: Mapping[str, Any]) -> Sweep:
    if entry.state not in ENDED:
        raise StateError(f"sweep {entry.id} is {entry.state}: it is resumed when it has ended")
    if changes:
        with api.turns.computing:
            asked = check_changes(entry, changes, api.rules)
    else:
        asked = SpecChange({}, entry.budget, remaining_demand(entry, SweepSpec.checked(entry.spec), entry.budget))
    with api.sending:
        api.check_quota(user, entry, asked.demand)
        resumed = api.service.supervisor.resume(entry.id, user.name, asked.values, asked.budget)
        return api.service.views.sweep(resumed)


@router.post(
    "/{sweep}/extend",
    status_code=202,
    response_model=Extension,
    summary="Run the trials that a firm answer lacks",
    dependencies=[Expensive],
    responses={
        **documented(404, 409),
        **shown(examples.EXTENSION, "They wait in the queue.", 202),
        200: {
            "description": "What would run (`dry_run`).",
            "content": {
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/Extension"},
                    "example": examples.EXTENSION,
                }
            },
        },
    },
)
def extend_sweep(
    api: Asked,
    user: Viewer,
    sweep: SweepId,
    dry_run: Annotated[bool, Query(description="Only say what would run.")] = False,
    noise: Annotated[str | None, Query(max_length=80, pattern=TEXT, description="Noise scale of the answer.")] = None,
    objective: Annotated[str | None, Query(max_length=80, pattern=TEXT, description="What it is about.")] = None,
    repeats: Annotated[int | None, Query(ge=1, le=10_000, description="Trials of each configuration.")] = None,
    noises: Annotated[int | None, Query(ge=1, le=10_000, description="At most so many new noises.")] = None,
) -> Response:
    """Run just the trials that the analysis of a finished sweep asks for."""
    entry = api.steered(user, sweep)
    if entry.state not in ENDED:
        raise StateError(f"sweep {sweep} is {entry.state}: it is extended when it has ended")
    asked = {"noise": noise, "objective": objective, "repeats": repeats, "noises": noises}
    options = {k: v for k, v in asked.items() if v is not None}
    plan: Extension = api.service.views.plan(entry, options)
    if dry_run:
        return answer(plan.model_copy(update={"dry_run": True}))
    with api.sending:
        api.check_quota(user, entry, Demand(plan.trials, remaining_gpu_hours(entry, entry.spec.get("max_gpu_hours"))))
        api.service.supervisor.extend(entry.id, user.name, options, plan.trials)
    return answer(plan, 202)
