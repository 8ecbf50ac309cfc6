"""What travels with a sweep to a cluster: the package, the sweep as a file, a user's own space file and folder.

Everything is packed the same way each time, so that the same content has the same name and is uploaded once.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sweeper.config.spec import SweepSpec
from sweeper.config.yaml_text import write
from sweeper.errors import SpecError
from sweeper.storage.location import check_uri, is_uri
from sweeper.storage.run_folder import SPEC_FILE
from trainables.runtime import COMMIT_FILE, package_version

MOST_BYTES = 50_000_000
"""Of what is shipped: code and settings; data belongs on storage that the nodes reach."""
_NOT_THE_SWEEPS = {"out", "address", "runner"}
_SKIPPED = {"__pycache__", "node_modules", "venv", "runs"}
SECRET = re.compile(r"(TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY)", re.IGNORECASE)


@dataclass(frozen=True)
class Carried:
    """A sweep ready to travel.

    Attributes:
        out: Its run folder, as the cluster's nodes reach it.
        files: Content by path: the sweep's file, the space file it names, and what else was asked for.
    """

    out: str
    files: Mapping[str, bytes]

    @property
    def text(self) -> str:
        """The sweep's file."""
        return self.files[SPEC_FILE].decode()


def carried(spec: SweepSpec, folder: str | None = None) -> Carried:
    """Pack a sweep so that a job can run it where this machine's files are not.

    Args:
        spec: The sweep, as `load_spec` yields it.
        folder: A folder whose files travel along.

    Raises:
        SpecError: `out` is missing or means nothing on another machine; there is too much to ship; a file cannot be
            read.
    """
    out = _shared_out(spec)
    values = {k: v for k, v in _asked(_with_priors(spec)).items() if k not in _NOT_THE_SWEEPS and v != {}}
    files = dict(_files(Path(folder))) if folder is not None else {}
    if spec.space.endswith(".py"):
        source = Path(spec.space)
        values["space"] = source.name
        files[source.name] = _read(source)
    files[SPEC_FILE] = write(values).encode()
    _check_size(files)
    return Carried(out, files)


def _shared_out(spec: SweepSpec) -> str:
    if spec.runner != "ray":
        raise SpecError(f"a cluster runs sweeps by runner ray, got {spec.runner}")
    if spec.out is None or not (is_uri(spec.out) or Path(spec.out).is_absolute()):
        got = "none" if spec.out is None else repr(spec.out)
        raise SpecError(
            "--out must be a URI (s3://BUCKET/PATH) or the absolute path of a folder that all nodes mount, because "
            f"the job's own folder vanishes with it; got {got}"
        )
    if is_uri(spec.out):
        check_uri(spec.out)
    return spec.out


def _asked(spec: SweepSpec) -> dict[str, Any]:
    """Return what was asked for, and no defaults: some follow from what was not."""
    values: dict[str, Any] = spec.asked()
    objectives = values.pop("further_objectives", None)
    return {**values, "objective": [spec.objective, *objectives]} if objectives else values


def _with_priors(spec: SweepSpec) -> SweepSpec:
    """Read priors in folders of this machine."""
    from sweeper.analysis.prior import read_prior
    from sweeper.config.fields import PriorNoise
    from sweeper.config.space import corners

    if all(isinstance(p, PriorNoise) or is_uri(p) for p in spec.prior):
        return spec
    from sweeper.config.noise_default import with_usual_noise

    space = spec.load_space()
    noise = with_usual_noise(spec, space).noise
    trainable = space.build(next(corners(space))).trainable
    read = [
        p if isinstance(p, PriorNoise) or is_uri(p) else read_prior(p, spec.objective, noise, trainable)
        for p in spec.prior
    ]
    return spec.model_copy(update={"prior": tuple(read)})


def _files(folder: Path) -> Iterable[tuple[str, bytes]]:
    """Yield the files of a folder: but hidden ones, caches, virtual environments and run folders."""
    if not folder.is_dir():
        raise SpecError(f"--working-dir must be a folder, got {folder}")
    total = 0
    for place, folders, names in os.walk(folder):
        here = Path(place)
        folders[:] = sorted(n for n in folders if _wanted(n) and not _own_world(here / n))
        for name in sorted(n for n in names if _wanted(n) and not n.endswith((".pyc", ".pyo"))):
            file = here / name
            if not file.is_file():
                continue
            total += file.stat().st_size
            if total > MOST_BYTES:
                raise SpecError(_too_much(f"{folder} ({file.relative_to(folder)} is where it was too much)"))
            yield file.relative_to(folder).as_posix(), _read(file)


def _wanted(name: str) -> bool:
    return not name.startswith(".") and name not in _SKIPPED and not name.endswith(".egg-info")


def _own_world(folder: Path) -> bool:
    return (folder / "pyvenv.cfg").exists() or ((folder / SPEC_FILE).exists() and (folder / "trials").exists())


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise SpecError(f"cannot read {file}: {error.strerror or error}") from None


def _check_size(files: Mapping[str, bytes]) -> None:
    if sum(len(data) for data in files.values()) > MOST_BYTES:
        raise SpecError(_too_much(f"{max(files, key=lambda n: len(files[n]))} and the rest"))


def _too_much(what: str) -> str:
    return (
        f"what is shipped must be at most {MOST_BYTES / 1e6:g} MB of code and settings, and there is more: {what}; put "
        "data where all nodes reach it and name it by --data"
    )


def package() -> dict[str, bytes]:
    """Return the files of this package and its commit as one, by path from the folder that goes on Python's path."""
    found: dict[str, bytes] = {}
    for name in ("trainables", "search_spaces", "sweeper", "dashboards"):
        spec = find_spec(name)
        assert spec is not None
        assert spec.submodule_search_locations
        root = Path(spec.submodule_search_locations[0])
        found |= {f"{name}/{path}": data for path, data in _files(root)}
    _, commit = package_version()
    return {**found, f"trainables/{COMMIT_FILE}": commit.encode()}


def zipped(files: Mapping[str, bytes]) -> bytes:
    """Return a zip archive that the files alone decide, byte for byte."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, files[name])
    return buffer.getvalue()


def name_of(spec: SweepSpec, found: Carried) -> str:
    """Return a name for the job that runs this search in its run folder, the same each time."""
    identity = {**spec.identity(), "space": sorted((n, hashlib.sha256(d).hexdigest()) for n, d in found.files.items()
                                                   if n.endswith(".py")) or spec.space}  # fmt: skip
    text = json.dumps([identity, found.out], sort_keys=True, default=str)
    stem = re.sub(r"[^a-z0-9]+", "-", Path(spec.space).stem.lower()).strip("-") or "sweep"
    return f"{stem[:40]}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def environment(given: Iterable[str], secret: re.Pattern[str] = SECRET) -> dict[str, str]:
    """Read flags of the job's environment: `NAME=VALUE`, or a `NAME` that is set here.

    Args:
        given: The flags.
        secret: Names of what must not travel so, because others may see it.

    Raises:
        SpecError: One is not of that form, or its name says that it is a secret.
    """
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if secret.search(name):
            key = re.split(r"\W", name)[0]
            raise SpecError(
                f"--env {key} may be a secret, and whoever sees the cluster's jobs would see it: start the nodes with "
                "it, or give it by a role or a Kubernetes secret (--secret of `sweeper manifest`)"
            )
        if not re.fullmatch(r"[A-Za-z_]\w*", name) or (not equals and name not in os.environ):
            raise SpecError(f"--env needs NAME=VALUE, or a NAME that is set here, got {text!r}")
        found[name] = value if equals else os.environ[name]
    return found
