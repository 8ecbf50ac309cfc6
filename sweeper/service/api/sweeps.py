"""Routes that submit, list, control and delete sweeps."""

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
from sweeper.service.api.auth import Submitter, Viewer, add_audit_detail
from sweeper.service.api.dependencies import TEXT, Api, ApiDependency, Plain, SweepId, answer, body_of
from sweeper.service.api.examples import example_response
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
        "description": "Keys of the spec to change: `trials`, and keys of resources and limits.",
        "content": {
            JSON_TYPES[0]: {
                "schema": {"$ref": "#/components/schemas/Changes"},
                "example": {"trials": 60, "max_seconds": 3600},
            }
        },
    }
}


@dataclass(frozen=True)
class _Submission:
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
    summary="Submit a sweep",
    responses={
        **documented(400, 409, 415),
        **example_response(examples.SUBMITTED, "Queued.", 202, Location="URL of the sweep."),
        200: {
            "description": "The estimated cost (`dry_run`).",
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
    api: ApiDependency,
    user: Submitter,
    name: Annotated[
        Plain, Query(max_length=200, json_schema_extra=_PLAIN, description="Name of the sweep.", examples=["tries"])
    ] = "",
    priority: Annotated[int, Query(ge=-100, le=100, description="Higher starts first; above 0 needs an admin.")] = 0,
    shared: Annotated[bool, Query(description="Whether all users may see the sweep.")] = False,
    dry_run: Annotated[bool, Query(description="Estimate the cost; queue nothing.")] = False,
    webhook: Annotated[
        Plain | None,
        Query(max_length=2000, json_schema_extra=_PLAIN, description="URL to notify of the sweep's end."),
    ] = None,
    idempotency_key: Annotated[
        str | None,
        Header(
            min_length=1,
            max_length=255,
            pattern=r"^[\x21-\x7e]+$",
            description="Repeated requests with the same key create one sweep.",
            examples=["3f0c9c1e"],
        ),
    ] = None,
) -> Response:
    """Check the whole spec, then queue the sweep. An error creates nothing; its message is the command line's."""
    media = media_type(request.headers.get("content-type", ""))
    sent = _Submission(await body_of(request, api.limits.spec), media, name, priority, shared, webhook, idempotency_key)
    add_audit_detail(request, action="estimate_sweep" if dry_run else "submit_sweep")
    if dry_run:
        return answer(await api.turn(request, _estimate, api, user, sent))
    entry, estimate = await api.turn(request, _queue, api, user, sent)
    add_audit_detail(request, target=entry.id)
    url = f"/v1/sweeps/{entry.id}"
    record = Submitted(id=entry.id, url=url, state=State(entry.state), estimate=estimate)
    return answer(record, 202, {"Location": url})


def _admit(api: Api, user: User, sent: _Submission) -> Admission:
    if sent.priority > 0 and not user.admin:
        raise forbidden(f"a priority above 0 needs an admin's token, got {sent.priority}")
    if sent.webhook is not None:
        check_url(sent.webhook, api.service.config.webhooks)
    with api.turns.computing:
        values, lines = parse_spec(sent.body, sent.media, api.limits)
        return admit(values, lines, api.rules, user, lambda sweep: api.visible_entry(user, sweep))


def _estimate(api: Api, user: User, sent: _Submission) -> Estimate:
    return api.estimates.of(_admit(api, user, sent), user)


def _queue(api: Api, user: User, sent: _Submission) -> tuple[Entry, Estimate]:
    admitted = _admit(api, user, sent)
    request = (sent.body.decode(), sent.media, sent.name, sent.priority, sent.shared, sent.webhook)
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
        fingerprint=fingerprint(*request) if sent.key else None,
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
    responses={**documented(), **example_response(examples.PAGE, "A page of sweeps, newest first.")},
)
def list_sweeps(
    api: ApiDependency,
    user: Viewer,
    state: Annotated[list[State] | None, Query(max_length=8, description="Only sweeps in one of these states.")] = None,
    owner: Annotated[str | None, Query(max_length=80, pattern=TEXT, description="Only sweeps of this user.")] = None,
    space: Annotated[str | None, Query(max_length=200, pattern=TEXT, description="Only sweeps of this space.")] = None,
    after: Annotated[str | None, Query(max_length=400, pattern=TEXT, description="`next` of the last page.")] = None,
    limit: Annotated[int, Query(ge=1, le=200, description="Sweeps per page.")] = 50,
) -> Response:
    """List the sweeps that the user may see: own and shared ones; admins see all."""
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
    summary="Get a sweep",
    responses={**documented(404), **example_response(examples.DETAIL, "The sweep, its spec and its history.")},
)
def get_sweep(api: ApiDependency, user: Viewer, sweep: SweepId) -> Response:
    """Return a sweep's state and reason, progress, cost, best noise so far, winner and warnings."""
    return answer(api.service.views.detail(api.visible_entry(user, sweep)))


@router.delete(
    "/{sweep}",
    status_code=204,
    response_class=Response,
    summary="Delete a sweep",
    responses={**documented(404, 409), 204: {"description": "Deleted."}},
)
def delete_sweep(
    api: ApiDependency,
    user: Viewer,
    sweep: SweepId,
    confirm: Annotated[str, Query(max_length=80, pattern=TEXT, description="The sweep's id again.")] = "",
) -> Response:
    """Delete an ended sweep with its results; `confirm` must repeat its id."""
    entry = api.steerable_entry(user, sweep)
    if confirm != entry.id:
        raise SpecError(f"confirm must be the sweep's id, {entry.id}, got {confirm!r}; nothing was deleted")
    if entry.state not in ENDED:
        raise StateError(f"sweep {sweep} is {entry.state}: cancel it first")
    api.service.supervisor.remove(entry.id)
    return Response(status_code=204)


@router.post(
    "/{sweep}/stop",
    status_code=202,
    response_model=Sweep,
    summary="Stop a sweep",
    responses={**documented(404, 409), **example_response(examples.SWEEP, "Stopping after the running trials.", 202)},
)
def stop_sweep(api: ApiDependency, user: Viewer, sweep: SweepId) -> Response:
    """Start no new configurations; when the running ones have finished, the sweep is done."""
    entry = api.steerable_entry(user, sweep)
    return answer(api.service.views.sweep(api.service.supervisor.stop(entry.id, user.name)), 202)


@router.post(
    "/{sweep}/cancel",
    status_code=202,
    response_model=Sweep,
    summary="Cancel a sweep",
    responses={**documented(404, 409), **example_response(examples.SWEEP, "Cancelling.", 202)},
)
def cancel_sweep(api: ApiDependency, user: Viewer, sweep: SweepId) -> Response:
    """Kill a sweep's process. Finished trials are kept, and `resume` continues the sweep."""
    entry = api.steerable_entry(user, sweep)
    return answer(api.service.views.sweep(api.service.supervisor.cancel(entry.id, user.name)), 202)


@router.post(
    "/{sweep}/resume",
    status_code=202,
    response_model=Sweep,
    summary="Resume a sweep",
    responses={**documented(400, 404, 409, 415), **example_response(examples.SWEEP, "Queued again.", 202)},
    openapi_extra=_CHANGES_BODY,
    dependencies=[Expensive],
)
async def resume_sweep(request: Request, api: ApiDependency, user: Viewer, sweep: SweepId) -> Response:
    """Continue an ended sweep, with the same spec or with changes such as more `trials`."""
    entry = await run_in_threadpool(api.steerable_entry, user, sweep)
    body = await body_of(request, api.limits.spec)
    changes = await api.turn(request, _parse_changes, body, media_type(request.headers.get("content-type", "")))
    if changes:
        add_audit_detail(request, detail=body.decode())
    return answer(await api.turn(request, _resume, api, user, entry, changes), 202)


def _parse_changes(body: bytes, media: str) -> Mapping[str, Any]:
    if not body.strip():
        return {}
    if media not in JSON_TYPES:
        raise RefusedError(415, f"changes must be application/json, got {media[:80]!r}")
    values, _ = parse_spec(body, media, Limits())
    return values


def _resume(api: Api, user: User, entry: Entry, changes: Mapping[str, Any]) -> Sweep:
    if entry.state not in ENDED:
        raise StateError(f"sweep {entry.id} is {entry.state}: resume it after it has ended")
    if changes:
        with api.turns.computing:
            change = check_changes(entry, changes, api.rules)
    else:
        change = SpecChange({}, entry.budget, remaining_demand(entry, SweepSpec.checked(entry.spec), entry.budget))
    with api.sending:
        api.check_quota(user, entry, change.demand)
        resumed = api.service.supervisor.resume(entry.id, user.name, change.values, change.budget)
        return api.service.views.sweep(resumed)


@router.post(
    "/{sweep}/extend",
    status_code=202,
    response_model=Extension,
    summary="Extend a sweep",
    dependencies=[Expensive],
    responses={
        **documented(404, 409),
        **example_response(examples.EXTENSION, "Queued.", 202),
        200: {
            "description": "The trials that would run (`dry_run`).",
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
    api: ApiDependency,
    user: Viewer,
    sweep: SweepId,
    dry_run: Annotated[bool, Query(description="Plan the trials; queue nothing.")] = False,
    noise: Annotated[str | None, Query(max_length=80, pattern=TEXT, description="Noise scale to analyse.")] = None,
    objective: Annotated[str | None, Query(max_length=80, pattern=TEXT, description="Objective to analyse.")] = None,
    repeats: Annotated[int | None, Query(ge=1, le=10_000, description="Trials per configuration.")] = None,
    noises: Annotated[int | None, Query(ge=1, le=10_000, description="Maximum number of new noises.")] = None,
) -> Response:
    """Run only the trials that the analysis of an ended sweep still needs for a firm answer."""
    entry = api.steerable_entry(user, sweep)
    if entry.state not in ENDED:
        raise StateError(f"sweep {sweep} is {entry.state}: extend it after it has ended")
    given = {"noise": noise, "objective": objective, "repeats": repeats, "noises": noises}
    options = {k: v for k, v in given.items() if v is not None}
    plan: Extension = api.service.views.plan(entry, options)
    if dry_run:
        return answer(plan.model_copy(update={"dry_run": True}))
    with api.sending:
        api.check_quota(user, entry, Demand(plan.trials, remaining_gpu_hours(entry, entry.spec.get("max_gpu_hours"))))
        api.service.supervisor.extend(entry.id, user.name, options, plan.trials)
    return answer(plan, 202)
