"""Names of the JSON outputs, and their JSON schemas."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, get_args, get_type_hints

from pydantic import BaseModel

from sweeper.cli.output import JSON_VERSION
from sweeper.cli.schemas import files, services, sweeps
from sweeper.cli.schemas.base import SOMETIMES, USUAL, read_docs
from sweeper.client import models

OUTPUTS: Mapping[str, type[BaseModel]] = {
    "best": sweeps.Results,
    "status": sweeps.StatusRecord,
    "list": sweeps.TrialList,
    "recommend": sweeps.Recommendations,
    "analyse": sweeps.Analyses,
    "compare": sweeps.Comparison,
    "extend": sweeps.ExtensionPlan,
    "pair": sweeps.Rerun,
    "merge": files.Merge,
    "merge-folders": files.FolderMerge,
    "export": files.ExportedTable,
    "export-figures": files.ExportedFigures,
    "export-optuna": files.ExportedStudy,
    "export-tensorboard": files.ExportedEvents,
    "import": files.Import,
    "compact": files.Compaction,
    "spaces": files.SpaceList,
    "noises": files.NoiseList,
    "merges": files.MergeList,
    "submit": services.JobSubmission,
    "job": services.Job,
    "token-create": services.CreatedToken,
    "token-revoke": models.TokenView,
    "token-list": services.TokenList,
    "service-estimate": models.Estimate,
    "service-submit": models.Submitted,
    "service-status": models.SweepDetail,
    "service-sweep": models.Sweep,
    "service-list": services.SweepList,
    "service-extend": models.Extension,
    "service-best": services.ServiceResults,
    "service-page": services.ServicePage,
}
"""Name of an output -> its model. `run` and `resume` print `best`.

With a service, `stop`, `resume --detach` and `extend --detach` print `service-sweep`, `status` prints `service-status`.
"""

_DIALECT = "https://json-schema.org/draft/2020-12/schema"


@cache
def json_schema(name: str) -> dict[str, Any]:
    """Return the JSON schema (2020-12) of an output; it forbids further keys and has `schema_version`.

    Args:
        name: Name in `OUTPUTS`.
    """
    model = OUTPUTS[name]
    schema = model.model_json_schema(mode="serialization")
    classes = {cls.__name__: cls for cls in _find_dataclasses(model)}
    for key, part in [("", schema), *schema.get("$defs", {}).items()]:
        _complete(part, classes.get(key))
    version = {"const": JSON_VERSION, "description": "Version of the JSON of all commands."}
    schema["properties"] = {"schema_version": version, **schema["properties"]}
    schema["required"] = ["schema_version", *schema["required"]]
    return {"$schema": _DIALECT, **schema, "title": name}


def _complete(part: dict[str, Any], cls: type[Any] | None) -> None:
    """Close an object, leave out marks, and take the descriptions of a dataclass, whose numbers may not be finite."""
    if "properties" not in part:
        return
    docs = read_docs(cls) if cls else {}
    for name, field in part["properties"].items():
        field.pop("title", None)
        field.pop("default", None)
        if docs.get(name):
            field.setdefault("description", docs[name])
        if text := field.get("description") or USUAL.get(name, ""):
            field["description"] = re.sub(r"\bNone\b", "null", f"{text[0].upper()}{text[1:].rstrip('.')}.")
    # an output has all keys of its records, also those with a default
    part["required"] = [name for name, field in part["properties"].items() if not field.pop(SOMETIMES, False)]
    part.setdefault("additionalProperties", False)
    _allow_null(part["properties"])


def _allow_null(value: Any) -> None:
    # a number that is not finite becomes null
    if isinstance(value, list):
        for item in value:
            _allow_null(item)
    elif isinstance(value, dict):
        if value.get("type") == "number":
            value["type"] = ["number", "null"]
        for item in value.values():
            _allow_null(item)


def _find_dataclasses(hint: Any, seen: set[Any] | None = None) -> Iterator[type[Any]]:
    """Yield the dataclasses in the types of a model's fields."""
    seen = set() if seen is None else seen
    inner: list[Any] = list(get_args(hint))
    if isinstance(hint, type) and not isinstance(hint, types.GenericAlias) and hint not in seen:
        seen.add(hint)
        if is_dataclass(hint):
            yield hint
            inner += [get_type_hints(hint)[f.name] for f in fields(hint)]
        elif issubclass(hint, BaseModel):
            inner += [f.annotation for f in hint.model_fields.values()]
    for item in inner:
        yield from _find_dataclasses(item, seen)
