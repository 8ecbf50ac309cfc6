"""The HTTP API of a service."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.responses import Response
from starlette.routing import Route

from sweeper.client.models import Estimate, Extension, Problem
from sweeper.config.spec import SweepSpec
from sweeper.runner.ray_tune.placement import cpus
from sweeper.service.api import catalog, events, operations, results, sweeps
from sweeper.service.api.auth import OPEN, Guard
from sweeper.service.api.dependencies import Api
from sweeper.service.api.metrics import Measured, Metrics
from sweeper.service.api.problems import install
from sweeper.service.config import Config
from sweeper.service.db.audit import Audit
from sweeper.service.policy.admission import RESUMABLE, Rules
from sweeper.service.policy.errors import RefusedError
from sweeper.service.policy.limits import Limits
from sweeper.service.service import Service
from sweeper.service.views.estimates import Estimates
from sweeper.service.views.outward import Outward
from sweeper.storage.location import is_uri
from trainables import __version__

ROUTERS = tuple(m.router for m in (sweeps, results, events, catalog, operations))
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
_REF = "#/components/schemas/{model}"
_ABOUT = """\
Sweeps that find the training noise at which fine-tuned models merge best. Errors are problem documents (RFC 9457);
`detail` is the message that the command line prints. Times are UTC, durations are in seconds.
"""


def make_api(service: Service, limits: Limits | None = None) -> FastAPI:
    """Return the API of a service.

    Args:
        service: The service; the caller starts and closes it.
        limits: Limits of requests; by default the service's.
    """
    config = service.config
    limits = limits or limits_of(config)
    metrics = Metrics(service.catalog)
    audit = Audit(service.catalog.engine)
    app = FastAPI(
        title="sweeper",
        version=__version__,
        description=_ABOUT,
        openapi_url=None,  # `_schema` answers: FastAPI's own route encodes the schema anew for each request
        docs_url=None,  # its scripts come from another server
        redoc_url=None,
    )
    app.state.api = Api(
        service=service,
        limits=limits,
        rules=Rules(config.root, config.run_of, data_of(config), service.spaces, limits),
        estimates=Estimates(service.catalog, service.views, cpus() if config.address is None else None),
        audit=audit,
        metrics=metrics,
    )
    install(app, Outward.of(config).text)
    for router in ROUTERS:
        app.include_router(router)
    app.router.routes.append(Route(OPEN[0], _schema(app), methods=["GET", "HEAD"]))
    app.router.routes.append(Route("/v1/{rest:path}", _refuse_path, methods=list(_METHODS)))
    app.add_middleware(Guard, users=service.users, auth=config.auth, limits=limits, audit=audit)
    app.add_middleware(Measured, metrics=metrics)
    app.openapi = lambda: app.openapi_schema or _build_schema(app)
    return app


def limits_of(config: Config) -> Limits:
    """Return the limits of a configuration."""
    burst = max(1, round(2 * config.rate))
    return Limits(
        body=config.max_body,
        workers=config.max_workers,
        rate=config.rate,
        burst=burst,
        connections=config.max_connections,
    )


def data_of(config: Config) -> str | None:
    """Return the folder with the data sets: the configured one, or `data` under the root if it exists."""
    if config.data:
        return str(Path(config.data).expanduser().absolute())
    default = None if is_uri(config.root) else Path(config.root).expanduser().absolute() / "data"
    return str(default) if default and default.is_dir() else None


async def _refuse_path(request: Request) -> Response:
    path = request.url.path
    routes = (r for router in ROUTERS for r in router.routes if isinstance(r, APIRoute) and r.path_regex.match(path))
    methods = {method for route in routes for method in route.methods or ()}
    if methods:
        allowed = ", ".join(sorted(methods))
        raise RefusedError(405, f"{path[:200]} does not support {request.method}: use {allowed}", {"Allow": allowed})
    raise RefusedError(404, f"unknown path {path[:200]}; GET /v1/openapi.json lists all paths")


def _schema(app: FastAPI) -> Callable[[Request], Awaitable[Response]]:
    @cache
    def text() -> bytes:
        return json.dumps(app.openapi(), ensure_ascii=False, separators=(",", ":")).encode()

    async def get_schema(_: Request) -> Response:
        return Response(text(), media_type="application/json")

    return get_schema


def _build_schema(app: FastAPI) -> dict[str, Any]:
    schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    schemas = schema["components"]["schemas"]
    for model in (Problem, Estimate, Extension, SweepSpec):
        _add(schemas, model.__name__, model.model_json_schema(ref_template=_REF))
    properties = schemas["SweepSpec"]["properties"]
    schemas["Changes"] = {
        "type": "object",
        "description": "Keys of a spec to change; null keeps the old value.",
        "properties": {key: {"anyOf": [properties[key], {"type": "null"}]} for key in RESUMABLE},
        "additionalProperties": False,
    }
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    app.openapi_schema = schema
    return schema


def _add(schemas: dict[str, Any], name: str, schema: dict[str, Any]) -> None:
    for inner, definition in schema.pop("$defs", {}).items():
        schemas.setdefault(inner, definition)
    schemas.setdefault(name, schema)
