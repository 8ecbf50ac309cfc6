"""Bundle of a sweep for a cluster: the package, the spec as a file, the user's space file and folder.

Equal content yields equal bytes, so that its name is the same and it is uploaded once.
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

from sweeper.config.prepared import PreparedSweep, set_defaults
from sweeper.config.spec import SweepSpec
from sweeper.config.yaml_text import write
from sweeper.errors import SpecError
from sweeper.storage.location import check_uri, is_uri
from sweeper.storage.run_folder import SPEC_FILE
from trainables.runtime import COMMIT_FILE, package_version

MOST_BYTES = 50_000_000
"""Largest bundle. It holds code and settings; data belongs on storage that the nodes reach."""
_LOCAL_KEYS = {"out", "address", "runner"}
_SKIPPED = {"__pycache__", "node_modules", "venv", "runs"}
SECRET = re.compile(r"(TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|ACCESS_?KEY|PRIVATE_?KEY)", re.IGNORECASE)


@dataclass(frozen=True)
class Bundle:
    """Files of a sweep for another machine.

    Attributes:
        out: Run folder, by a name that all nodes of the cluster resolve.
        files: Path -> content: the spec, its space file, and the files of the user's folder.
    """

    out: str
    files: Mapping[str, bytes]

    @property
    def spec_text(self) -> str:
        """Text of the spec's file."""
        return self.files[SPEC_FILE].decode()


def bundle_sweep(sweep: PreparedSweep, folder: str | None = None) -> Bundle:
    """Return the files that a job needs to run a sweep on a machine without the files of this one.

    Args:
        sweep: The sweep, from `sweeper.config.load.load_sweep`.
        folder: Folder whose files the job needs, too.

    Raises:
        SpecError: `out` is missing or local to this machine, the bundle is too large, or a file cannot be read.
    """
    spec = sweep.spec
    out = _shared_out(spec)
    values = {k: v for k, v in _explicit_values(_read_priors(sweep)).items() if k not in _LOCAL_KEYS and v != {}}
    files = dict(_files(Path(folder))) if folder is not None else {}
    if spec.space.endswith(".py"):
        source = Path(spec.space)
        values["space"] = source.name
        files[source.name] = _read(source)
    files[SPEC_FILE] = write(values).encode()
    if sum(len(data) for data in files.values()) > MOST_BYTES:
        raise _too_large(f"the largest file is {max(files, key=lambda name: len(files[name]))}")
    return Bundle(out, files)


def _shared_out(spec: SweepSpec) -> str:
    if spec.runner != "ray":
        raise SpecError(f"a cluster runs sweeps by runner ray, got {spec.runner}")
    if spec.out is None or not (is_uri(spec.out) or Path(spec.out).is_absolute()):
        got = "none" if spec.out is None else repr(spec.out)
        raise SpecError(
            "--out must be a URI (s3://BUCKET/PATH) or the absolute path of a folder that all nodes mount, because "
            f"the job's working folder is deleted with the job; got {got}"
        )
    if is_uri(spec.out):
        check_uri(spec.out)
    return spec.out


def _explicit_values(spec: SweepSpec) -> dict[str, Any]:
    """Return the values that the user set; a default may follow from an unset value, so the cluster computes it."""
    values: dict[str, Any] = spec.dump_explicit()
    objectives = values.pop("further_objectives", None)
    return {**values, "objective": [spec.objective, *objectives]} if objectives else values


def _read_priors(sweep: PreparedSweep) -> SweepSpec:
    """Return the spec with priors read from the run folders of this machine."""
    from sweeper.analysis.curve.prior import read_priors

    priors = read_priors(set_defaults(sweep), keep=is_uri)
    return sweep.with_spec(prior=priors).spec if sweep.spec.prior else sweep.spec


def _files(folder: Path) -> Iterable[tuple[str, bytes]]:
    """Yield path and content of a folder's files, without hidden files, caches, environments and run folders."""
    if not folder.is_dir():
        raise SpecError(f"--working-dir must be a folder, got {folder}")
    total = 0
    for parent, subfolders, names in os.walk(folder):
        path = Path(parent)
        subfolders[:] = sorted(n for n in subfolders if _is_wanted(n) and not _is_environment_or_run(path / n))
        for name in sorted(n for n in names if _is_wanted(n) and not n.endswith((".pyc", ".pyo"))):
            file = path / name
            if not file.is_file():
                continue
            total += file.stat().st_size
            if total > MOST_BYTES:
                raise _too_large(f"{folder} exceeds it at {file.relative_to(folder)}")
            yield file.relative_to(folder).as_posix(), _read(file)


def _is_wanted(name: str) -> bool:
    return not name.startswith(".") and name not in _SKIPPED and not name.endswith(".egg-info")


def _is_environment_or_run(folder: Path) -> bool:
    return (folder / "pyvenv.cfg").exists() or ((folder / SPEC_FILE).exists() and (folder / "trials").exists())


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise SpecError(f"cannot read {file}: {error.strerror or error}") from None


def _too_large(detail: str) -> SpecError:
    return SpecError(
        f"the files of a job must take at most {MOST_BYTES / 1e6:g} MB, and {detail}; put data on storage that all "
        "nodes reach, and name it by --data"
    )


def package_files() -> dict[str, bytes]:
    """Return this package's files and a file with its commit, by path relative to an entry of Python's path."""
    files: dict[str, bytes] = {}
    for name in ("trainables", "search_spaces", "sweeper", "dashboards"):
        spec = find_spec(name)
        assert spec is not None
        assert spec.submodule_search_locations
        root = Path(spec.submodule_search_locations[0])
        files |= {f"{name}/{path}": data for path, data in _files(root)}
    _, commit = package_version()
    return {**files, f"trainables/{COMMIT_FILE}": commit.encode()}


def zip_files(files: Mapping[str, bytes]) -> bytes:
    """Return a zip archive; equal files yield equal bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, files[name])
    return buffer.getvalue()


def job_name(spec: SweepSpec, bundle: Bundle) -> str:
    """Return the name of the job that runs this search in its run folder, the same each time."""
    sources = sorted((n, hashlib.sha256(d).hexdigest()) for n, d in bundle.files.items() if n.endswith(".py"))
    identity = {**spec.identity(), "space": sources or spec.space}
    text = json.dumps([identity, bundle.out], sort_keys=True, default=str)
    stem = re.sub(r"[^a-z0-9]+", "-", Path(spec.space).stem.lower()).strip("-") or "sweep"
    return f"{stem[:40]}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"


def parse_environment(given: Iterable[str], secret: re.Pattern[str] = SECRET) -> dict[str, str]:
    """Return the variables that `--env` gives as `NAME=VALUE`, or as a `NAME` that is set on this machine.

    Args:
        given: Values of `--env`.
        secret: Pattern of names to refuse, because others can see the variables of a job.

    Raises:
        SpecError: A value has another form, or its name matches the pattern.
    """
    variables: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if secret.search(name):
            key = re.split(r"\W", name)[0]
            raise SpecError(
                f"--env {key} may be a secret, and everyone who sees the cluster's jobs would see it: set it when you "
                "start the nodes, or use a role or a Kubernetes secret (--secret of `sweeper manifest`)"
            )
        if not re.fullmatch(r"[A-Za-z_]\w*", name) or (not equals and name not in os.environ):
            raise SpecError(f"--env needs NAME=VALUE, or the NAME of a variable that is set here, got {text!r}")
        variables[name] = value if equals else os.environ[name]
    return variables
