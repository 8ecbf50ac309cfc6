"""Routes to a sweep's results."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import nullcontext
from typing import IO, Annotated, Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet as pq
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, StreamingResponse

from sweeper.client.archive import ARCHIVE, DISCARDED, NAME
from sweeper.client.models import Advice, SettingsAdvice, TrialPage
from sweeper.errors import AwayError, SpecError
from sweeper.search.objectives import OBJECTIVES
from sweeper.service.api import examples
from sweeper.service.api.auth import Viewer, bucket
from sweeper.service.api.dependencies import ApiDependency, SweepId, plain_json
from sweeper.service.api.examples import example_response
from sweeper.service.api.problems import documented
from sweeper.service.api.turns import Expensive
from sweeper.service.db.sweeps import StateError, UnknownSweepError
from sweeper.service.policy.errors import RefusedError
from trainables.registry import unknown

router = APIRouter(prefix="/v1/sweeps/{sweep}", tags=["results"])
pc: Any = pyarrow.compute  # creates its functions at import, so type checkers do not see them
JSON, ARROW, PARQUET = "application/json", "application/vnd.apache.arrow.stream", "application/vnd.apache.parquet"
SAFETENSORS = "application/octet-stream"
PAGE_POLICY = (
    "sandbox allow-scripts allow-downloads; default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'unsafe-inline'; img-src data: blob:; font-src data:; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'none'"
)
"""Policy of a sweep's page: it may draw and save images, but has no origin and cannot reach any server."""
FEW_ROWS = 500
"""Most rows of a page that does not count as expensive."""
_COLUMN = r"^[A-Za-z_][A-Za-z0-9_]*$"
_BYTES = {"schema": {"type": "string", "format": "binary"}}


def negotiate(accept: str, offered: tuple[str, ...]) -> str | None:
    """Return the offered media type that an Accept header prefers; the first for an empty header, None for none."""
    best, rank = None, 0.0
    for media in offered:
        kind = media.partition("/")[0]
        match = -1.0, 0.0  # specificity, weight
        for part in accept.split(",") if accept.strip() else ("*/*",):
            name, *parameters = (p.strip().lower() for p in part.split(";"))
            weight = next((p[2:] for p in parameters if p.startswith("q=")), "1")
            level = {media: 2.0, f"{kind}/*": 1.0, "*/*": 0.0}.get(name, -1.0)
            if level > match[0]:
                match = level, _weight(weight)
        if match[0] >= 0 and match[1] > rank:
            best, rank = media, match[1]
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
    api: ApiDependency,
    user: Viewer,
    sweep: SweepId,
    after: Annotated[int, Query(ge=0, lt=2**53, description="`next` of the last page.")] = 0,
    limit: Annotated[int, Query(ge=1, le=10_000, description="Rows per page.")] = 100,
    outcome: Annotated[
        str | None, Query(max_length=40, pattern=_COLUMN, description="Only trials with this outcome.", examples=["ok"])
    ] = None,
    config: Annotated[
        str | None, Query(max_length=64, pattern="^[0-9a-f]+$", description="Only trials of this configuration.")
    ] = None,
    where: Annotated[
        list[Annotated[str, Query(max_length=400, pattern=r"^[A-Za-z_][A-Za-z0-9_]*=[^\x00-\x1f\x7f]*$")]] | None,
        Query(max_length=20, description="COLUMN=VALUE: only rows with that value.", examples=[["momentum=0.9"]]),
    ] = None,
    columns: Annotated[
        str | None,
        Query(
            max_length=4000,
            pattern=r"^[A-Za-z_][A-Za-z0-9_]*(,[A-Za-z_][A-Za-z0-9_]*)*$",
            description="Comma-separated names of columns; default: all.",
            examples=["digest,outcome,merged_loss_val"],
        ),
    ] = None,
) -> Response:
    """Return trials in the order in which they landed; new trials do not change earlier pages."""
    entry = api.visible_entry(user, sweep)
    media = negotiate(request.headers.get("accept", ""), (JSON, ARROW, PARQUET))
    if media is None:
        raise RefusedError(406, f"Accept must allow {JSON}, {ARROW} or {PARQUET}")
    equal = {"outcome": outcome, "config": config}
    wanted = {**_parse_where(where or ()), **{k: v for k, v in equal.items() if v is not None}}
    names = tuple(dict.fromkeys(columns.split(","))) if columns else None
    many = limit > FEW_ROWS
    with api.turns.count(bucket(request, api.service.config.auth)) if many else nullcontext():
        table, last, more = api.service.views.trials(entry, after, limit, wanted, names)
        if media == JSON:
            return Response(_page(table, last, more), media_type=JSON)
        headers = {"Sweeper-Next": str(last), "Sweeper-More": "true" if more else "false"}
        return Response(serialize(table, media), media_type=media, headers=headers)


def _page(table: pa.Table, last: int, more: bool) -> bytes:
    # in parts, since encoding a part blocks all other threads
    parts = (plain_json(rows_of(table.slice(i, FEW_ROWS)))[1:-1] for i in range(0, table.num_rows, FEW_ROWS))
    return b'{"items":[%b],%b' % (b",".join(parts), plain_json({"next": str(last), "more": more})[1:])


def _parse_where(texts: tuple[str, ...] | list[str]) -> dict[str, str]:
    conditions: dict[str, str] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if name in conditions:
            raise SpecError(f"where: {name} occurs twice; keep one")
        conditions[name] = value
    return conditions


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    """Return the rows of a table, with None for numbers that are not finite."""
    for i, column in enumerate(table.schema):
        if pa.types.is_floating(column.type):
            values = table.column(i)
            table = table.set_column(i, column.name, pc.if_else(pc.is_finite(values), values, None))
    return table.to_pylist()


def serialize(table: pa.Table, media: str) -> bytes:
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
    responses={**documented(404, 409), **example_response(examples.ADVICE, "Advice per objective.")},
)
def get_recommendation(
    api: ApiDependency,
    user: Viewer,
    sweep: SweepId,
    batch_size: Annotated[
        list[Annotated[int, Query(ge=1, le=2**31)]] | None,
        Query(max_length=16, description="Batch sizes for which to solve the learning rate.", examples=[[256]]),
    ] = None,
    learning_rate: Annotated[
        float | None,
        Query(gt=0, le=1e9, allow_inf_nan=False, description="Learning rate for which to solve the batch size."),
    ] = None,
    momentum: Annotated[
        float | None, Query(ge=0, lt=1, allow_inf_nan=False, description="Default: that of the best trial.")
    ] = None,
    weight_decay: Annotated[
        float | None, Query(ge=0, le=1e9, allow_inf_nan=False, description="Default: that of the best trial.")
    ] = None,
    objective: Annotated[
        list[Annotated[str, Query(max_length=40, pattern=_COLUMN)]] | None,
        Query(max_length=8, description="Objectives to optimise; default: merged_loss and gain_mean."),
    ] = None,
) -> Response:
    """Solve learning rates for given batch sizes, or batch sizes for a learning rate, at the best noise."""
    entry = api.visible_entry(user, sweep)
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
        advice = api.service.views.advice(entry, objective or (), **{k: v for k, v in wanted.items() if v is not None})
    except (AwayError, RefusedError):
        raise
    except SpecError as error:
        raise StateError(str(error)) from None  # a valid request, but the sweep has no answer yet
    return Response(plain_json([a.model_dump(mode="json") for a in advice]), media_type=JSON)


@router.get(
    "/settings",
    response_model=SettingsAdvice,
    summary="Get the settings to use",
    dependencies=[Expensive],
    responses={**documented(404, 409), **example_response(examples.SETTINGS, "Settings with their texts.")},
)
def get_settings(
    api: ApiDependency,
    user: Viewer,
    sweep: SweepId,
    batch_size: Annotated[
        list[Annotated[int, Query(ge=1, le=2**31)]] | None,
        Query(max_length=16, description="Batch sizes to use; default: the best one.", examples=[[256]]),
    ] = None,
    learning_rate: Annotated[
        float | None, Query(gt=0, le=1e9, allow_inf_nan=False, description="Learning rate to use; default: the best.")
    ] = None,
    momentum: Annotated[
        float | None, Query(ge=0, lt=1, allow_inf_nan=False, description="Momentum to use; default: the best.")
    ] = None,
    weight_decay: Annotated[
        float | None, Query(ge=0, le=1e9, allow_inf_nan=False, description="Weight decay to use; default: the best.")
    ] = None,
    objective: Annotated[
        str | None, Query(max_length=40, pattern=_COLUMN, description="Objective to optimise; default: the sweep's.")
    ] = None,
) -> Response:
    """Return the best value of every searched knob, at the values that are given, as `sweeper recommend` prints it."""
    from sweeper.analysis.settings.settings import NoSettingsError

    entry = api.visible_entry(user, sweep)
    wanted = {"batch_sizes": batch_size, "learning_rate": learning_rate, "momentum": momentum,
              "weight_decay": weight_decay, "objective": objective}  # fmt: skip
    try:
        advice = api.service.views.settings(entry, **{k: v for k, v in wanted.items() if v is not None})
    except NoSettingsError as error:
        raise StateError(str(error)) from None  # a valid request, but the sweep has no answer yet
    return Response(plain_json(advice.model_dump(mode="json")), media_type=JSON)


@router.get(
    "/best",
    response_model=dict[str, Any],
    summary="Get the winner",
    dependencies=[Expensive],
    responses={**documented(404), **example_response(examples.BEST, "The winning trial and the sweep's summary.")},
)
def get_best(api: ApiDependency, user: Viewer, sweep: SweepId) -> Response:
    """Return the winner so far and the best noise, as `sweeper best --json` prints them."""
    best: Mapping[str, Any] | None = api.service.views.best(api.visible_entry(user, sweep))
    if best is None:
        raise UnknownSweepError(f"sweep {sweep} has no viable trial yet")
    return Response(plain_json(best), media_type=JSON)


@router.get(
    "/best/weights",
    response_class=FileResponse,
    summary="Download the winner's weights",
    dependencies=[Expensive],
    responses={**documented(404), 200: {"description": "safetensors", "content": {SAFETENSORS: _BYTES}}},
)
def get_best_weights(api: ApiDependency, user: Viewer, sweep: SweepId) -> Response:
    """Return the merged weights of the winning trial."""
    weights = api.service.views.weights(api.visible_entry(user, sweep))
    if weights is None:
        raise UnknownSweepError(
            f"sweep {sweep} stores no weights of its winner; `sweeper pair {sweep} DIGEST --server URL` trains that "
            "trial again"
        )
    if isinstance(weights, bytes):
        head = {"Content-Disposition": f'attachment; filename="{sweep}.safetensors"'}
        return Response(weights, media_type=SAFETENSORS, headers=head)
    return FileResponse(weights, media_type=SAFETENSORS, filename=f"{sweep}.safetensors")


@router.get(
    "/best/model",
    response_class=StreamingResponse,
    summary="Download the winner as a model folder",
    dependencies=[Expensive],
    responses={
        **documented(404, 409, 413),
        200: {
            "description": "A tar file with the folder's files. A process writes the folder first.",
            "content": {ARCHIVE: _BYTES},
            "headers": {
                DISCARDED: {
                    "schema": {"type": "string"},
                    "description": "Share of the merged update's squared norm that an adapter lacks.",
                }
            },
        },
    },
)
def get_best_model(
    api: ApiDependency,
    user: Viewer,
    sweep: SweepId,
    rank: Annotated[
        int | None, Query(ge=1, le=65536, description="Rank of an adapter; by default the whole model.")
    ] = None,
    name: Annotated[str, Query(pattern=f"^{NAME.pattern}$", description="Name of the folder on its card.")] = "model",
) -> Response:
    """Return the merged language model of the winning trial as `from_pretrained` loads it, with its card."""
    packed = api.service.models.pack(api.visible_entry(user, sweep), name, rank)
    head = {"Content-Length": str(packed.size), "Content-Disposition": f'attachment; filename="{sweep}.tar"'}
    head |= {} if packed.discarded is None else {DISCARDED: repr(packed.discarded)}
    return StreamingResponse(_read_parts(packed.content), media_type=ARCHIVE, headers=head)


def _read_parts(content: IO[bytes]) -> Iterator[bytes]:
    with content:
        while part := content.read(1 << 20):
            yield part


@router.get(
    "/report",
    response_class=HTMLResponse,
    summary="Get the report",
    dependencies=[Expensive],
    responses={
        **documented(404),
        200: {"description": "A page that works offline.", "content": {"text/html": {"schema": {"type": "string"}}}},
    },
)
def get_report(request: Request, api: ApiDependency, user: Viewer, sweep: SweepId) -> Response:
    """Return the sweep's page, as `sweeper export --html` writes it."""
    parts = api.service.views.report(api.visible_entry(user, sweep), str(request.base_url).rstrip("/"))
    head = {"Content-Security-Policy": PAGE_POLICY, "Content-Length": str(sum(map(len, parts)))}

    async def content() -> AsyncIterator[bytes]:
        for part in parts:  # all requests share the parts, so a slow reader needs no copy
            yield part

    return StreamingResponse(content(), media_type="text/html", headers=head)
