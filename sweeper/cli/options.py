"""Options that commands share; those of a sweep come from the fields of `SweepSpec`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

import click
from pydantic.fields import FieldInfo

from sweeper.cli.parsing import Argument, Number, Option
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
_ELSEWHERE = ("address",)
"""Options of a sweep whose names have another meaning for `submit` and `manifest`."""

JSON = Option("--json", "", "Print JSON on stdout.", default=False)
SERVER = Option("--server", "URL", "Service that carries the command out (default: SWEEPER_SERVER; '' for none). Run "
                "folders on this machine stay here.", group="service")  # fmt: skip
TRUST = (
    Option("--ca", "FILE", "Certificates to trust of an https server (default: the system's).", group="service"),
    Option("--insecure", "", "Do not check the server's certificate; send a token even over http.", group="service"),
)
COMMON = (SERVER, JSON)
SERVED = (SERVER, *TRUST, JSON)
"""Options of a command that a service carries out, too."""
JOB_SERVER = (
    Option("--address", "URL", "Job server of the cluster: http://HEAD:8265 (default: RAY_API_SERVER_ADDRESS).",
           group="job"),
    *TRUST,
)  # fmt: skip
DETACH = Option("--detach", "", "With --server: return at once.", default=False, group="service")
SENT = (
    DETACH,
    Option("--dry-run", "", "With --server: print the sweep's cost and run nothing.", dest="estimate", default=False,
           group="service"),
    Option("--name", "TEXT", "With --server: name of the sweep in lists.", dest="label", group="service"),
    Option("--priority", "N", "With --server: -100 to 100; higher ones start first (default: 0).", group="service"),
    Option("--shared", "", "With --server: all users may see the sweep.", group="service"),
    Option("--webhook", "URL", "With --server: address that is told when the sweep ends.", group="service"),
)  # fmt: skip
SET = Option("--set", "KEY=VALUE", "Fix a field of the trial, or one entry of it: optimizer=adamw, "
             "dataset_options.path=DIR. The value is YAML; repeatable.", multiple=True, group="trial")  # fmt: skip
ENV = Option("--env", "NAME[=VALUE]", "Variable of the job's environment. Everyone who sees the cluster's jobs sees "
             "it; repeatable.", multiple=True, group="job")  # fmt: skip
PLACE = (
    Option("--root", "DIR|URI", "Folder or URI of the sweeps' run folders.", default="sweeps", show_default=True),
    Option("--state", "DIR", "Folder on this machine for the server's own files (default: .service under --root).",
           type=click.Path(path_type=Path)),
    Option("--database", "URL", "sqlite:///FILE or postgresql://USER@HOST/NAME (default: a SQLite file among the "
           "server's own files)."),
)  # fmt: skip
RUN_DIR = Argument("dir", "DIR", "Run folder, or its URI; with --server a sweep's id.")
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


SHOWN_NOISE = Option("--noise", "NAME", "Noise scale to show; measured ones, too (default: the sweep's).", names=noises)
TARGET = Argument("target", "SPACE|spec.yaml", "Search space, space file (.py) or sweep spec (.yaml).", names=spaces)
_NAMES = {"objective": objectives, "sampler": samplers, "noise": noises}


def sweep_options(mark: str = "flag", only: Collection[str] = (), without: Collection[str] = ()) -> Iterator[Option]:
    """Yield the options of a sweep, from the metadata of the fields of `SweepSpec`.

    Args:
        mark: Mark of `sweeper.config.fields.option` that a field must have.
        only: Names of fields; empty for all.
        without: Names of fields to leave out.
    """
    for name, field in SweepSpec.model_fields.items():
        if marks(field).get(mark) and (not only or name in only) and name not in without:
            yield _option(name, field)


def sweep_elsewhere() -> Iterator[Option]:
    """Yield the options of a sweep that another cluster runs."""
    return sweep_options(without=_ELSEWHERE)


def _option(name: str, field: FieldInfo) -> Option:
    about = marks(field)
    words = [str(w) for w in get_args(field.annotation) if isinstance(w, str)]
    switch = field.annotation is bool
    default = field.get_default(call_default_factory=False)
    text = field.description or ""
    if not switch and isinstance(default, str | int | float) and "(default" not in text:
        text = f"{text.removesuffix('.')} (default: {default})."
    rules: dict[str, Any] = {}
    if about["many"] and not about["several"]:
        rules["multiple"] = True
        text = f"{text} Repeatable."
    metavar = "" if switch else about["metavar"] or "|".join(words)
    choices = _NAMES.get(name) or ((lambda: words) if words else None)
    return Option(f"--{name.replace('_', '-')}", metavar, text, group=about["group"], names=choices,
                  several=about["several"], **rules)  # fmt: skip
