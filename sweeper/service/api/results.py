"""Routes: what a sweep found."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Mapping
from contextlib import nullcontext
from typing import Annotated, Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, StreamingResponse

from sweeper.client.models import Advice, TrialPage
from sweeper.errors import AwayError, SpecError
from sweeper.search.objectives import OBJECTIVES
from sweeper.service.api import examples
from sweeper.service.api.auth import Viewer, bucket
from sweeper.service.api.dependencies import Asked, SweepId, plain_json
from sweeper.service.api.examples import shown
from sweeper.service.api.problems import documented
from sweeper.service.api.turns import Expensive
from sweeper.service.db.sweeps import StateError, UnknownSweepError
from sweeper.service.policy.errors import RefusedError
from trainables.registry import unknown

router = APIRouter(prefix="/v1/sweeps/{sweep}", tags=["results"])
pc: Any = pyarrow.compute  # whose functions are made when it is imported
JSON, ARROW, PARQUET = "application/json", "application/vnd.apache.arrow.stream", "application/vnd.apache.parquet"
SAFETENSORS = "application/octet-stream"
PAGE_POLICY = (
    "sandbox allow-scripts allow-downloads; default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'unsafe-inline'; img-src data: blob:; font-src data:; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'none'"
)
"""Of a page that sweeps write: it may draw and save pictures, but is a stranger here, and can reach nobody."""
FEW_ROWS = 500
"""Rows of a page that is cheap."""
_COLUMN = r"^[A-Za-z_][A-Za-z0-9_]*$"
_BYTES = {"schema": {"type": "string", "format": "binary"}}


def chosen(accept: str, offered: tuple[str, ...]) -> str | None:
    """Return which of the offered media types an Accept header prefers; the first where it says nothing."""
    best, rank = None, 0.0
    for media in offered:
        kind = media.partition("/")[0]
        found = -1.0, 0.0  # how specific, and the weight
        for part in accept.split(",") if accept.strip() else ("*/*",):
            name, *parameters = (p.strip().lower() for p in part.split(";"))
            weight = next((p[2:] for p in parameters if p.startswith("q=")), "1")
            level = {media: 2.0, f"{kind}/*": 1.0, "*/*": 0.0}.get(name, -1.0)
            if level > found[0]:
                found = level, _weight(weight)
        if found[0] >= 0 and found[1] > rank:
            best, rank = media, found[1]
    return best


def _weight(text: str) -> float:
    try:
        return max(0.0, min(1.0, float(text)))
    except ValueError:
        return 0.0


@router.get(
    "/trials",
    response_model=TrialPage,
    summary="Read trials",
    responses={
        **documented(404, 406),
        200: {
            "description": "Rows of the trials table.",
            "content": {JSON: {"example": examples.TRIALS}, ARROW: _BYTES, PARQUET: _BYTES},
            "headers": {
                "Sweeper-Next": {"schema": {"type": "string"}, "description": "`next`, for Arrow and Parquet."},
                "Sweeper-More": {"schema": {"type": "string"}, "description": "`more`, for Arrow and Parquet."},
            },
        },
    },
)
def list_trials(
    request: Request,
    api: Asked,
    user: Viewer,
    sweep: SweepId,
    after: Annotated[int, Query(ge=0, lt=2**53, description="`next` of the page before.")] = 0,
    limit: Annotated[int, Query(ge=1, le=10_000, description="Rows of a page.")] = 100,
    outcome: Annotated[
        str | None, Query(max_length=40, pattern=_COLUMN, description="Only those that ended so.", examples=["ok"])
    ] = None,
    config: Annotated[
        str | None, Query(max_length=64, pattern="^[0-9a-f]+$", description="Only those of this configuration.")
    ] = None,
    where: Annotated[
        list[Annotated[str, Query(max_length=400, pattern=r"^[A-Za-z_][A-Za-z0-9_]*=[^\x00-\x1f\x7f]*$")]] | None,
        Query(max_length=20, description="COLUMN=VALUE: only rows with this value.", examples=[["momentum=0.9"]]),
    ] = None,
    columns: Annotated[
        str | None,
        Query(
            max_length=4000,
            pattern=r"^[A-Za-z_][A-Za-z0-9_]*(,[A-Za-z_][A-Za-z0-9_]*)*$",
            description="Names of columns, with commas between them; all where it is left out.",
            examples=["digest,outcome,merged_loss_val"],
        ),
    ] = None,
) -> Response:
    """Read trials in the order in which they landed; a page stays the same while further ones land."""
    entry = api.seen(user, sweep)
    media = chosen(request.headers.get("accept", ""), (JSON, ARROW, PARQUET))
    if media is None:
        raise RefusedError(406, f"trials come as {JSON}, {ARROW} or {PARQUET}")
    wanted = {**_where(where or ()), **{k: v for k, v in (("outcome", outcome), ("config", config)) if v is not None}}
    names = tuple(dict.fromkeys(columns.split(","))) if columns else None
    many = limit > FEW_ROWS
    with api.turns.held(bucket(request, api.service.config.auth)) if many else nullcontext():
        table, last, more = api.service.views.trials(entry, after, limit, wanted, names)
        if media == JSON:
            return Response(_page(table, last, more), media_type=JSON)
        headers = {"Sweeper-Next": str(last), "Sweeper-More": "true" if more else "false"}
        return Response(packed(table, media), media_type=media, headers=headers)


def _page(table: pa.Table, last: int, more: bool) -> bytes:
    # in parts: no other thread runs while a part becomes JSON
    parts = (plain_json(rows_of(table.slice(i, FEW_ROWS)))[1:-1] for i in range(0, table.num_rows, FEW_ROWS))
    return b'{"items":[%b],%b' % (b",".join(parts), plain_json({"next": str(last), "more": more})[1:])


def _where(texts: tuple[str, ...] | list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name in found:
            raise SpecError(f"where: {name} occurs twice; keep one")
        found[name] = value
    return found


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    """Return the rows of a table; a number that is not finite is None."""
    for i, column in enumerate(table.schema):
        if pa.types.is_floating(column.type):
            values = table.column(i)
            table = table.set_column(i, column.name, pc.if_else(pc.is_finite(values), values, None))
    return table.to_pylist()


def packed(table: pa.Table, media: str) -> bytes:
    """Return a table as an Arrow stream or a Parquet file."""
    sink = io.BytesIO()
    if media == ARROW:
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
    else:
        pq.write_table(table, sink)
    return sink.getvalue()


@router.get(
    "/recommendation",
    response_model=list[Advice],
    summary="Get hyperparameters that reach the best noise",
    dependencies=[Expensive],
    responses={**documented(404, 409), **shown(examples.ADVICE, "What to train with.")},
)
def get_recommendation(
    api: Asked,
    user: Viewer,
    sweep: SweepId,
    batch_size: Annotated[
        list[Annotated[int, Query(ge=1, le=2**31)]] | None,
        Query(max_length=16, description="Solve the learning rate for these.", examples=[[256]]),
    ] = None,
    learning_rate: Annotated[
        float | None,
        Query(gt=0, le=1e9, allow_inf_nan=False, description="Keep it and solve the batch size instead."),
    ] = None,
    momentum: Annotated[
        float | None, Query(ge=0, lt=1, allow_inf_nan=False, description="Default: the best trial's.")
    ] = None,
    weight_decay: Annotated[
        float | None, Query(ge=0, le=1e9, allow_inf_nan=False, description="Default: the best trial's.")
    ] = None,
    objective: Annotated[
        list[Annotated[str, Query(max_length=40, pattern=_COLUMN)]] | None,
        Query(max_length=8, description="What to advise on; merged_loss and gain_mean where it is left out."),
    ] = None,
) -> Response:
    """Solve learning rates for the batch sizes one wants to train with, at the best noise that was found."""
    entry = api.seen(user, sweep)
    for name in objective or ():
        if name not in OBJECTIVES:
            raise SpecError(str(unknown("objective", name, OBJECTIVES)))
    if batch_size and learning_rate is not None:
        raise SpecError(f"give batch_size or learning_rate, not both: got {batch_size} and {learning_rate!r}")
    wanted = {
        "batch_sizes": batch_size,
        "learning_rate": learning_rate,
        "momentum": momentum,
        "weight_decay": weight_decay,
    }
    try:
        found = api.service.views.advice(entry, objective or (), **{k: v for k, v in wanted.items() if v is not None})
    except (AwayError, RefusedError):
        raise
    except SpecError as error:
        raise StateError(str(error)) from None  # the request is right, the sweep has no answer yet
    return Response(plain_json([a.model_dump(mode="json") for a in found]), media_type=JSON)


@router.get(
    "/best",
    response_model=dict[str, Any],
    summary="Look at the winner",
    dependencies=[Expensive],
    responses={**documented(404), **shown(examples.BEST, "The winning trial and the sweep's summary.")},
)
def get_best(api: Asked, user: Viewer, sweep: SweepId) -> Response:
    """Say which configuration wins so far, and what was found about the noise: what `sweeper best --json` prints."""
    found: Mapping[str, Any] | None = api.service.views.best(api.seen(user, sweep))
    if found is None:
        raise UnknownSweepError(f"sweep {sweep} has no viable trial yet")
    return Response(plain_json(found), media_type=JSON)


@router.get(
    "/best/weights",
    response_class=FileResponse,
    summary="Fetch the winner's weights",
    dependencies=[Expensive],
    responses={**documented(404), 200: {"description": "safetensors", "content": {SAFETENSORS: _BYTES}}},
)
def get_best_weights(api: Asked, user: Viewer, sweep: SweepId) -> Response:
    """Fetch the merged weights of the winning trial."""
    found = api.service.views.weights(api.seen(user, sweep))
    if found is None:
        raise UnknownSweepError(
            f"sweep {sweep} keeps no weights of a winner; `sweeper pair {sweep} DIGEST --server URL` trains that trial"
        )
    if isinstance(found, bytes):
        head = {"Content-Disposition": f'attachment; filename="{sweep}.safetensors"'}
        return Response(found, media_type=SAFETENSORS, headers=head)
    return FileResponse(found, media_type=SAFETENSORS, filename=f"{sweep}.safetensors")


@router.get(
    "/report",
    response_class=HTMLResponse,
    summary="Get the page",
    dependencies=[Expensive],
    responses={
        **documented(404),
        200: {"description": "One file that works offline.", "content": {"text/html": {"schema": {"type": "string"}}}},
    },
)
def get_report(request: Request, api: Asked, user: Viewer, sweep: SweepId) -> Response:
    """Write the sweep's page, as `sweeper export --html` does."""
    parts = api.service.views.report(api.seen(user, sweep), str(request.base_url).rstrip("/"))
    head = {"Content-Security-Policy": PAGE_POLICY, "Content-Length": str(sum(map(len, parts)))}

    async def content() -> AsyncIterator[bytes]:
        for part in parts:  # kept for all who ask: one that reads slowly needs no copy
            yield part

    return StreamingResponse(content(), media_type="text/html", headers=head)
