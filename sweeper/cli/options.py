"""Options of several commands; the options of a sweep come from the fields of `SweepSpec`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
from pydantic.fields import FieldInfo

from sweeper.cli.parsing import TRUST, Argument, Number, Option, server_option
from sweeper.config.fields import marks
from sweeper.config.spec import SweepSpec

COUNT, WHOLE, INTEGER, FLOAT = Number(int, 1), Number(int, 0), Number(int), Number(float)
MERGE_FLAGS = (
    "data",
    "download",
    "cache",
    "resident_share",
    "loader_workers",
    "threads",
    "device",
    "smoke",
    "landscape",
)
_NOT_OF_JOBS = ("address",)
"""Options of a sweep that mean something else for `submit` and `manifest`."""

JSON = Option("--json", "", "Print JSON on stdout.", default=False)
SERVER = server_option()
COMMON = (server_option(hidden=True), JSON)
"""Options of a command that runs on this machine only."""
SERVED = (SERVER, *TRUST, JSON)
"""Options of a command that a service can run, too."""
JOB_SERVER = (
    Option("--address", "URL", "Job server of the cluster: http://HEAD:8265 (default: RAY_API_SERVER_ADDRESS).",
           group="job"),
    *TRUST,
)  # fmt: skip
DETACH = Option("--detach", "", "With --server: return while the sweep runs.", default=False, group="service")
DRY_RUN = (
    Option("--dry-run", "", "Check the sweep and count its trials by stage, with --server give its cost. Runs nothing.",
           dest="estimate", default=False, group="cluster"),
    Option("--pilot", "", "With --dry-run: run two trials and print the time that the sweep will take.", default=False,
           group="cluster"),
)  # fmt: skip
SENT = (
    DETACH,
    Option("--name", "TEXT", "With --server: display name of the sweep.", dest="label", group="service"),
    Option("--priority", "N", "With --server: -100 to 100; higher ones start first (default: 0).", group="service"),
    Option("--shared", "", "With --server: all users may see the sweep.", group="service"),
    Option("--webhook", "URL", "With --server: URL to notify at the end of the sweep.", group="service"),
)  # fmt: skip
SET = Option("--set", "KEY=VALUE", "Fix a field of the trial, or an entry of a field: optimizer=adamw, "
             "dataset_options.path=DIR. The value is YAML; repeatable.", multiple=True, group="trial")  # fmt: skip
ENV = Option("--env", "NAME[=VALUE]", "Environment variable of the job. Everyone who sees the cluster's jobs can "
             "read it; repeatable.", multiple=True, group="job")  # fmt: skip
PLACE = (
    Option("--root", "DIR|URI", "Folder or URI for run folders.", default="sweeps", show_default=True),
    Option("--state", "DIR", "Folder on this machine for the server's state (default: .service under --root).",
           type=click.Path(path_type=Path)),
    Option("--database", "URL", "sqlite:///FILE or postgresql://USER@HOST/NAME (default: a SQLite file in the "
           "state folder)."),
)  # fmt: skip
RUN_DIR = Argument("dir", "DIR", "Run folder, or its URI; with --server id of a sweep.")
OBJECTIVE_HELP = "merged_loss, gain_mean, ..."


def spaces() -> Iterable[str]:
    """Return the names of the search spaces."""
    from search_spaces import names

    return names()


def objectives() -> Iterable[str]:
    """Return the names of the objectives."""
    from sweeper.search.objectives import OBJECTIVES

    return OBJECTIVES


def samplers() -> Iterable[str]:
    """Return the names of the samplers."""
    from sweeper.search.samplers import SAMPLERS

    return SAMPLERS


def noises() -> Iterable[str]:
    """Return the names of the noise scales."""
    from trainables.noise import NOISE

    return NOISE


SHOWN_NOISE = Option(
    "--noise", "NAME", "Noise scale to show, predicted or measured (default: the sweep's).", names=noises
)
TARGET = Argument("target", "SPACE|spec.yaml", "Search space, space file (.py) or sweep spec (.yaml).", names=spaces)
_NAMES = {"objective": objectives, "sampler": samplers, "noise": noises, "track": lambda: ("tensorboard", "wandb")}


def sweep_options(mark: str = "flag", only: Collection[str] = (), without: Collection[str] = ()) -> Iterator[Option]:
    """Yield options from the metadata of the fields of `SweepSpec`.

    Args:
        mark: Mark of `sweeper.config.fields.option` that a field must have.
        only: Names of fields; empty for all.
        without: Names of fields to omit.
    """
    for name, field in SweepSpec.model_fields.items():
        if marks(field).get(mark) and (not only or name in only) and name not in without:
            yield _option(name, field)


def job_sweep_options() -> Iterator[Option]:
    """Yield the options of a sweep that a job on another cluster runs."""
    return sweep_options(without=_NOT_OF_JOBS)


def _find_literals(annotation: Any) -> list[str]:
    """Return the texts of a `Literal`, with or without None; empty for another type."""
    kinds = [a for a in get_args(annotation) if a is not type(None)]
    if len(kinds) == 1 and get_origin(kinds[0]) is Literal:
        kinds = list(get_args(kinds[0]))
    return [a for a in kinds if isinstance(a, str)]


def _option(name: str, field: FieldInfo) -> Option:
    metadata = marks(field)
    literals = _find_literals(field.annotation)
    switch = field.annotation is bool
    default = field.get_default(call_default_factory=False)
    text = field.description or ""
    if not switch and isinstance(default, str | int | float) and "(default" not in text:
        text = f"{text.removesuffix('.')} (default: {default})."
    rules: dict[str, Any] = {}
    if metadata["many"] and not metadata["several"]:
        rules["multiple"] = True
        text = f"{text} Repeatable."
    metavar = "" if switch else metadata["metavar"] or "|".join(literals)
    choices = _NAMES.get(name) or ((lambda: literals) if literals else None)
    return Option(f"--{name.replace('_', '-')}", metavar, text, group=metadata["group"], names=choices,
                  several=metadata["several"], **rules)  # fmt: skip
