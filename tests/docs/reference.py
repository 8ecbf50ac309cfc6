"""Writes docs/reference/*.md from the code: `python -m tests.docs.reference` after a change of a field or a name."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from trainables.registry import Registry

FOLDER = Path(__file__).parents[2] / "docs" / "reference"
NOTE = "This page is generated: `make reference` writes it from the code."


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in line) + " |" for line in lines)


def page(title: str, *parts: str) -> str:
    """Return a page."""
    return "\n\n".join([f"# {title}", NOTE, *parts]) + "\n"


def sweep() -> str:
    """Return the page of the fields of a sweep."""
    from sweeper.config.fields import Parameter
    from sweeper.config.resources import Resources
    from sweeper.config.spec import SweepSpec

    return page(
        "Fields of a sweep",
        "Keys of a sweep file, arguments of `SweepSpec`, and options of `sweeper run`. An option wins over the file.",
        table(["Field", "Option", "Group", "Default", "Meaning"], _sweep_rows(SweepSpec)),
        "`resume` may change the fields that end a sweep or say where it runs: "
        + ", ".join(f"`{n}`" for n, f in SweepSpec.model_fields.items() if _marks(f).get("resumable"))
        + ".",
        "## Resources",
        "Keys of `resources`, and of `--resources KEY=VALUE`.",
        table(["Key", "Default", "Meaning"], _model_rows(Resources)),
        "## Parameters",
        "`parameters` maps a knob to its range. Give `min` and `max`, or `values`. A dot reaches one entry of a field, "
        "such as `optimizer_options.eps`.",
        table(["Key", "Default"], [(f"`{n}`", _default(f)) for n, f in Parameter.model_fields.items()]),
    )


def _sweep_rows(model: type[BaseModel]) -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        marks = _marks(field)
        option = f"`--{name.replace('_', '-')}`" if marks.get("flag") else ""
        yield f"`{name}`", option, marks.get("group", ""), _default(field), field.description or ""


def _model_rows(model: type[BaseModel]) -> Iterator[tuple[str, ...]]:
    for name, field in model.model_fields.items():
        yield f"`{name}`", _default(field), field.description or ""


def _marks(field: FieldInfo) -> Mapping[str, Any]:
    from sweeper.config.fields import marks

    return marks(field)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    return "" if value is None or value in ((), {}) or isinstance(value, BaseModel) else f"`{_value(value)}`"


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def trial() -> str:
    """Return the page of the fields of a trial."""
    from trainables.spec import BaseSpec, PairSpec

    return page(
        "Fields of a trial",
        "A space, `--set FIELD=VALUE`, and the mapping `fixed` of a sweep file set these. "
        "[One trial](../explanation/trial.md) explains them.",
        table(["Field", "Default", "Meaning"], _field_rows(PairSpec)),
        "## Fields of `base`",
        "Plain SGD makes the base weights that all trials share, from the initial or the loaded weights.",
        table(["Field", "Default", "Meaning"], _field_rows(BaseSpec)),
    )


def _field_rows(kind: Any) -> Iterator[tuple[str, ...]]:
    for f in dataclasses.fields(kind):
        simple = f.default is not dataclasses.MISSING and f.default not in ("", ())
        needed = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        yield (
            f"`{f.name}`",
            "required" if needed else f"`{_value(f.default)}`" if simple else "",
            f.metadata["description"],
        )


def tables() -> str:
    """Return the page of the columns of all tables."""
    from sweeper.storage.schema import SCHEMAS
    from trainables.result import SCHEMA_VERSION

    about = {
        "trials": "One row per trial.",
        "merges": "One row per merge and coefficient of a trial.",
        "history": "One row per child and epoch.",
        "planes": "One row per point of the loss plane through base and children (`--plane N`).",
        "rungs": "One row per rung of a trial (`--prune`).",
        "search": "One row per configuration: the proposal, and what the sampler believed then.",
    }
    parts: list[str] = []
    for name, schema in SCHEMAS.items():
        rows = [(f"`{f.name}`", str(f.type), f.metadata[b"unit"].decode(), f.metadata[b"doc"].decode()) for f in schema]
        parts += [f"## {name}", about[name], table(["Column", "Type", "Unit", "Meaning"], rows)]
    return page(
        "Columns of the tables",
        f"Version {SCHEMA_VERSION} of the tables. A number is empty if it is not defined or was not measured. "
        "[Store results](../how-to/storage.md#what-a-run-folder-holds) says where the tables lie.",
        *parts,
    )


def names() -> str:
    """Return the page of all registered names."""
    return page(
        "Names",
        "`sweeper spaces`, `sweeper noises` and `sweeper merges` print some of these.",
        *_spaces(),
        *_noises(),
        *_merges(),
        *_builders(),
        *_searching(),
        *_endings(),
    )


def _spaces() -> Iterator[str]:
    from sweeper.config.catalog import space_records

    yield "## Spaces"
    rows = [(f"`{r['name']}`", r["doc"], r["budget"], ", ".join(f"`{k}`" for k in r["knobs"])) for r in space_records()]
    yield table(["Space", "Content", "Budget", "Knobs"], rows)


def _noises() -> Iterator[str]:
    from sweeper.config.catalog import noise_records
    from trainables.noise import FAMILIES, NOISE

    yield "## Noises"
    yield "[Noise](../explanation/noise.md) explains the symbols and the three kinds."
    rows = [
        (
            f"`{r['name']}`", r["formula"], r["unit"], r["kind"],
            "all" if len(r["optimizers"]) == len(FAMILIES) else ", ".join(r["optimizers"]), r["source"],
            NOISE.describe(r["name"]),
        )
        for r in noise_records()
    ]  # fmt: skip
    yield table(["Noise", "Formula", "Unit", "Kind", "Optimizers", "Source", "Meaning"], rows)


def _merges() -> Iterator[str]:
    from sweeper.config.catalog import merge_records
    from trainables.merging.methods import MERGES

    yield "## Merges"
    yield "θ_A and θ_B are the children, θ₀ the base, τ_i = θ_i − θ₀."
    rows = [
        (
            f"`{r['name']}`", MERGES.describe(r["name"]), r["formula"],
            f"{r['symbol']} = {', '.join(f'{g:g}' for g in r['grid'])}", r["source"],
        )
        for r in merge_records()
        if r["name"] in MERGES
    ]  # fmt: skip
    rows += [(f"`{r['name']}`", r["formula"], "", "", r["source"]) for r in merge_records() if r["name"] not in MERGES]
    yield table(["Merge", "Content", "Formula", "Grid", "Source"], rows)


def _builders() -> Iterator[str]:
    from trainables.datasets.augmentation import AUGMENTATIONS
    from trainables.datasets.load import DATASETS
    from trainables.models.registry import MODELS
    from trainables.training.optimizers import OPTIMIZERS
    from trainables.training.schedules import SCHEDULES

    yield "## Models"
    yield "Any other name of `timm` and of torchvision's classifiers works too."
    yield table(["Model", "Content"], _described(MODELS))
    yield "## Data sets"
    yield table(["Data set", "Content"], _described(DATASETS))
    yield "## Augmentations"
    yield table(
        ["Augmentation", "Content", "Source"],
        [(*row, AUGMENTATIONS[row[0].strip("`")].source) for row in _described(AUGMENTATIONS)],
    )
    yield "## Optimizers"
    yield "Any name of `timm.optim` works too."
    yield table(["Optimizer", "Content"], _described(OPTIMIZERS))
    yield "## Schedules"
    yield table(["Schedule", "Content"], _described(SCHEDULES))


def _searching() -> Iterator[str]:
    from sweeper.search.objectives import OBJECTIVES
    from sweeper.search.samplers import SAMPLERS

    yield "## Samplers"
    yield table(
        ["Sampler", "Content", "Several objectives"],
        [(f"`{n}`", s.doc, "yes" if s.several else "no") for n, s in SAMPLERS.items()],
    )
    yield "## Objectives"
    yield table(
        ["Objective", "Content", "Column", "Better"],
        [(f"`{n}`", o.label, f"`{o.column}`", "larger" if o.maximize else "smaller") for n, o in OBJECTIVES.items()],
    )


def _endings() -> Iterator[str]:
    from sweeper.storage.tables import BIASED, BIASED_MEANING
    from trainables.pair.caveats import KEYS
    from trainables.result import OUTCOMES

    yield "## Outcomes"
    yield "Only `ok` can win."
    yield table(["Outcome", "Meaning"], [(f"`{n}`", text) for n, text in OUTCOMES.items()])
    yield "## Warnings"
    yield "The column `warnings` of a trial holds them, each with the numbers of the trial."
    yield table(["Warning", "Meaning"], [(f"`{n}`", text) for n, text in {**KEYS, BIASED: BIASED_MEANING}.items()])


def _described(registry: Registry[Any]) -> list[tuple[str, ...]]:
    return [(f"`{n}`", registry.describe(n)) for n in registry]


def commands() -> str:
    """Return the page of the commands: `--help` of each."""
    from tests.docs import command_line

    parts = [f"## sweeper {' '.join(n)}\n\n```text\n{command_line.help_of(*n)}\n```" for n in command_line.names()]
    return page("Commands", f"```text\n{command_line.help_of()}\n```", *parts)


def http() -> str:
    """Return the page of the routes and records of the service."""
    from fastapi import FastAPI

    from sweeper.service.api.app import ROUTERS

    app = FastAPI(title="sweeper")
    for router in ROUTERS:
        app.include_router(router)
    schema = app.openapi()
    return page(
        "HTTP API",
        "Routes of `sweeper serve`. Errors are problem documents (RFC 9457) with the sentence of the command line. "
        "`GET /v1/openapi.json` is the whole schema with examples.",
        table(["Request", "Parameters", "Answer"], _routes(schema)),
        "## Records",
        *_records(schema),
    )


def _routes(schema: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for path, methods in schema["paths"].items():
        for method, route in methods.items():
            given = [p["name"] for p in route.get("parameters", []) if p["in"] != "path"]
            about = route.get("description") or route["summary"]
            yield f"`{method.upper()} {path}`", ", ".join(f"`{n}`" for n in given), " ".join(about.split())


def _records(schema: Mapping[str, Any]) -> Iterator[str]:
    for name, model in sorted(schema["components"]["schemas"].items()):
        if "properties" in model and "ValidationError" not in name:
            yield f"### {name}"
            yield table(
                ["Field", "Meaning"],
                [(f"`{k}`", " ".join(v.get("description", "").split())) for k, v in model["properties"].items()],
            )


def json_outputs() -> str:
    """Return the page of the JSON outputs of the commands."""
    from sweeper.cli.schemas.registry import OUTPUTS, json_schema

    parts: list[str] = []
    for name in OUTPUTS:
        schema = json_schema(name)
        about = " ".join(schema.get("description", "").split())
        rows = [row for key, field in schema["properties"].items() for row in _fields(key, field, schema, ())]
        parts += [f"## {name}", about, table(["Key", "Type", "Meaning"], rows)]
    return page(
        "JSON output",
        "With `--json`, a command prints one JSON object on stdout. `schema_version` is the version of all outputs; it "
        "grows when a key goes away or changes its meaning. New keys may come at any time. Numbers that are not finite "
        "are null. `run` and `resume` print `best`. With a service, `stop`, `resume --detach` and `extend --detach` "
        "print `service-sweep`, and `status` prints `service-status`.",
        "`KEY[]` is an entry of a list, `KEY.NAME` an entry of a mapping by names. A key in *italics* is not always "
        "there. [json-schemas.json](json-schemas.json) holds a JSON schema (2020-12) for each output.",
        *parts,
    )


def _fields(
    path: str, field: Mapping[str, Any], schema: Mapping[str, Any], inside: tuple[str, ...], always: bool = True
) -> Iterator[tuple[str, ...]]:
    """Yield a row for a field of a JSON schema, and for the fields of its records."""
    about, null = field.get("description", ""), False
    if "anyOf" in field:
        null = any(option.get("type") == "null" for option in field["anyOf"])
        (field,) = [option for option in field["anyOf"] if option.get("type") != "null"] or [{}]
    reference = field.get("$ref", "").rpartition("/")[2]
    if reference:
        field = schema["$defs"][reference]
        about = about or field.get("description", "")
    kinds = field.get("type", "any") if "const" not in field else f"{field['const']}"
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    kinds += ["null"] if null and "null" not in kinds else []
    name = f"`{path}`" if always else f"*`{path}`*"
    yield name, " or ".join(kinds), " ".join(about.split())
    if reference in inside and reference:
        return
    inner = (*inside, reference) if reference else inside
    for key, part in field.get("properties", {}).items():
        yield from _fields(f"{path}.{key}", part, schema, inner, key in field.get("required", ()))
    for suffix, part in (("[]", field.get("items")), (".NAME", field.get("additionalProperties"))):
        if isinstance(part, Mapping) and ("$ref" in part or part.get("type") in ("array", "object")):
            yield from list(_fields(f"{path}{suffix}", part, schema, inner))[1:]


def json_schemas() -> str:
    """Return the file with the JSON schema of each output."""
    from sweeper.cli.schemas.registry import OUTPUTS, json_schema

    return json.dumps({name: json_schema(name) for name in OUTPUTS}, indent=1, ensure_ascii=False) + "\n"


PAGES = {
    "sweep": sweep,
    "trial": trial,
    "tables": tables,
    "names": names,
    "commands": commands,
    "http": http,
    "json": json_outputs,
}


@functools.cache
def text(name: str) -> str:
    """Return the text of a page."""
    return PAGES[name]()


if __name__ == "__main__":
    for name in PAGES:
        (FOLDER / f"{name}.md").write_text(text(name))
    (FOLDER / "json-schemas.json").write_text(json_schemas())
