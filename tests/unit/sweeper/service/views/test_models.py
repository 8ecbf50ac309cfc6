"""Winners as model folders in archives: the same files as the local command writes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from sweeper.client.archive import unpack_folder
from sweeper.errors import SpecError
from sweeper.runner.results import winner
from sweeper.runner.results.results import load_results
from sweeper.service.db.sweeps import Entry, UnknownSweepError
from sweeper.service.policy.errors import RefusedError
from sweeper.service.service import Service
from sweeper.service.views import models
from tests.support.real_service import add_done, make_real


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = make_real(tmp_path_factory.mktemp("models"))
    yield service
    service.close()


@pytest.fixture(scope="module")
def entry(service: Service) -> Entry:
    return service.catalog.get(add_done(service, trials=1, space="text_lora", smoke=True))


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_an_adapter_has_the_files_of_the_local_command(service: Service, entry: Entry, tmp_path: Path) -> None:
    packed = service.models.pack(entry, "small", 1)
    archive = tmp_path / "a.tar"
    with packed.content as content, archive.open("wb") as file:
        shutil.copyfileobj(content, file)
    assert archive.stat().st_size == packed.size
    (tmp_path / "theirs").mkdir()
    (tmp_path / "ours").mkdir()
    unpack_folder(archive, tmp_path / "theirs" / "small")
    discarded = load_results(service.config.run_of(entry.id)).save_model(tmp_path / "ours" / "small", rank=1)
    assert packed.discarded == discarded
    theirs, ours = files_of(tmp_path / "theirs" / "small"), files_of(tmp_path / "ours" / "small")
    configs = [json.loads(found.pop("adapter_config.json")) for found in (theirs, ours)]
    assert theirs == ours
    bases = [config.pop("base_model_name_or_path") for config in configs]
    assert bases == [str(tmp_path / who / "small" / "base") for who in ("theirs", "ours")]
    assert configs[0] == configs[1]


def test_a_whole_model_is_written_by_the_process_too(
    service: Service, entry: Entry, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = service.views.best(entry)
    assert row is not None
    run = service.config.run_of(entry.id)
    assert models.main(run, row["digest"], str(tmp_path / "whole"), "0") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"discarded": None}
    load_results(run).save_model(tmp_path / "same")
    theirs, ours = files_of(tmp_path / "whole"), files_of(tmp_path / "same")
    assert theirs.pop("README.md").replace(b"whole", b"same") == ours.pop("README.md").replace(b"whole", b"same")
    assert theirs == ours
    assert models.main(run, row["digest"], str(tmp_path / "whole"), "0") == 0
    assert "exists; choose another folder" in json.loads(capsys.readouterr().out.splitlines()[-1])["error"]


def test_errors_are_sentences_without_folders_of_the_server(
    service: Service, entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = f"cannot read {service.config.run_of(entry.id)}/bases"
    monkeypatch.setattr(models, "_write_apart", lambda *_: {"error": error})
    with pytest.raises(SpecError, match=r"^cannot read ") as found:
        service.models.pack(entry, "model", None)
    assert service.config.root not in str(found.value)


@pytest.mark.parametrize(
    ("seconds", "command", "message"),
    [(0.0, "import time; time.sleep(60)", "took more than 0 s"), (60.0, "pass", "died, perhaps for lack of memory")],
)
def test_a_process_that_hangs_or_dies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, command: str, message: str
) -> None:
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\nexec python3 -c '{command}'\n")
    program.chmod(0o755)
    monkeypatch.setattr(models.sys, "executable", str(program))
    monkeypatch.setattr(models, "SECONDS", seconds)
    with pytest.raises(SpecError, match=message):
        models._write_apart("run", "digest", tmp_path / "target", None, 0)


def test_the_process_has_the_memory_of_an_inline_sweep(
    service: Service, entry: Entry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert service.models._memory == service.supervisor.room.each > 0
    limits: list[int] = []

    def fail(*_: object) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(models, "limit_memory", limits.append)
    monkeypatch.setattr(winner, "export_winner", fail)
    row = service.views.best(entry)
    assert row is not None
    assert models.main(service.config.run_of(entry.id), row["digest"], str(tmp_path / "m"), "4000000000") == 0
    assert limits == [4_000_000_000]
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["error"] == (
        "the model folder needs more memory than this server allows, 4 GB; run `sweeper best` on the server"
    )


def test_what_has_no_folder_is_refused(service: Service, entry: Entry, monkeypatch: pytest.MonkeyPatch) -> None:
    other = service.catalog.get(add_done(service))
    with pytest.raises(RefusedError, match=r"is no language model, .* --save NAME\.safetensors"):
        service.models.pack(other, "model", None)
    monkeypatch.setattr(models, "MOST_BYTES", 100)
    with pytest.raises(RefusedError, match="run `sweeper best` on the server") as large:
        service.models.pack(entry, "model", None)
    assert large.value.status == 413
    monkeypatch.setattr(models, "WAIT_SECONDS", 0.01)
    monkeypatch.setattr(models, "MOST_BYTES", 2**30)
    with service.models._lock, pytest.raises(RefusedError, match="another model folder is being written") as busy:
        service.models.pack(entry, "model", None)
    assert (busy.value.status, busy.value.headers) == (503, {"Retry-After": "10"})
    row = service.views.best(entry)
    assert row is not None
    kept = Path(service.config.run_of(entry.id)) / "weights" / f"{row['digest']}.safetensors"
    moved = kept.rename(kept.with_suffix(".away"))
    with pytest.raises(UnknownSweepError, match="stores no weights of its winner"):
        service.models.pack(entry, "model", None)
    moved.rename(kept)
