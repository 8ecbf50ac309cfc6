"""Routes that list spaces, noises and merges, with the JSON that the command line prints."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response

import search_spaces
from sweeper.config.catalog import merge_records, noise_records, space_record
from sweeper.service.api.auth import Viewer
from sweeper.service.api.dependencies import ApiDependency, plain_json
from sweeper.service.api.examples import example_response
from sweeper.service.api.problems import documented

router = APIRouter(prefix="/v1", tags=["names"])
_SPACE = {"name": "digits_cnn", "doc": "A small CNN on 8x8 digits.", "budget": "1 s a pair", "source": "", "knobs": {},
          "fixed": {"model": "cnn"}, "smoke": {}}  # fmt: skip
_NOISE = {"name": "paper", "kind": "predicted", "formula": "lr / (batch (1 - momentum))", "unit": "1",
          "solves": ["learning_rate"], "optimizers": ["sgd"], "source": ""}  # fmt: skip
_MERGE = {"name": "linear", "formula": "(1 - a) A + a B", "grid": [0.5], "symbol": "a", "source": ""}


@router.get(
    "/spaces",
    response_model=list[dict[str, Any]],
    summary="List search spaces",
    responses={**documented(), **example_response([_SPACE], "Spaces, by name.")},
)
def list_spaces(api: ApiDependency, user: Viewer) -> Response:
    """List the built-in spaces and the spaces that the server's admin added."""
    spaces = [search_spaces.load(name) for name in search_spaces.names()]
    spaces += [space for space in api.rules.spaces.known() if space.name not in {s.name for s in spaces}]
    records = [space_record(s) for s in spaces]
    for record in records:
        record["fixed"] = {k: v for k, v in record["fixed"].items() if k != "source"}
    return Response(plain_json(records), media_type="application/json")


@router.get(
    "/noises",
    response_model=list[dict[str, Any]],
    summary="List noise scales",
    responses={**documented(), **example_response([_NOISE], "Noise scales.")},
)
def list_noises(user: Viewer) -> Response:
    """List the definitions of the noise scale, with formulas and sources."""
    return Response(plain_json(noise_records()), media_type="application/json")


@router.get(
    "/merges",
    response_model=list[dict[str, Any]],
    summary="List merges",
    responses={**documented(), **example_response([_MERGE], "Merges.")},
)
def list_merges(user: Viewer) -> Response:
    """List the merges, with formulas and sources."""
    return Response(plain_json(merge_records()), media_type="application/json")
