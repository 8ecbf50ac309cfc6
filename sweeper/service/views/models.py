"""Winners of sweeps as model folders in an archive; a separate process writes them, with transformers and peft.

That process is `python -m sweeper.service.views.models RUN DIGEST TARGET MEMORY [RANK]`. It uses the weights that the
run folder keeps; with a rank it trains a base that the folder lacks. It loads nothing from a network. Its
memory is that of an inline sweep.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from sweeper.client.archive import pack_folder
from sweeper.errors import SpecError
from sweeper.service.db.sweeps import UnknownSweepError
from sweeper.service.policy.errors import RefusedError
from sweeper.service.policy.memory import limit_memory
from sweeper.storage.location import place_of
from sweeper.storage.tables import weights_of
from trainables.pair.record import is_out_of_memory
from trainables.spec import PairSpec

if TYPE_CHECKING:
    from sweeper.service.db.sweeps import Entry
    from sweeper.service.views.views import Views

SECONDS = 600.0
"""Longest time that the process may take."""
WAIT_SECONDS = 20.0
"""Longest time that a request waits for the process of another one."""
MOST_BYTES = 2**36
"""Largest archive."""


@dataclass(frozen=True)
class Packed:
    """A model folder as an archive.

    Attributes:
        content: The archive, at its start; nobody else has it, and it vanishes when it is closed.
        size: Its size in bytes.
        discarded: Share of the merged update's squared norm that an adapter lacks; None for a whole model.
    """

    content: IO[bytes]
    size: int
    discarded: float | None


class ModelFolders:
    """Writes winners as model folders, one at a time; thread-safe.

    Args:
        views: The sweeps.
        memory: Memory of the process [bytes]; 0 is no limit.
    """

    def __init__(self, views: Views, memory: int = 0) -> None:
        self._views, self._memory = views, memory
        self._lock = threading.Lock()

    def pack(self, entry: Entry, name: str, rank: int | None) -> Packed:
        """Return a winner's model folder as an archive.

        Args:
            entry: The sweep.
            name: Name of the folder on its card.
            rank: Rank of an adapter; None for a whole model.

        Raises:
            UnknownSweepError: The sweep has no winner, or its run folder keeps no weights of it.
            RefusedError: It is no language model, another one is being written, or the folder is too large.
            SpecError: The folder cannot be written.
        """
        from sweeper.runner.results.winner import find_row

        sweep, run = entry.id, self._views.run_of(entry.id)
        best = self._views.best(entry)
        if best is None:
            raise UnknownSweepError(f"sweep {sweep} has no viable trial yet")
        row = find_row(self._views.reader(entry).rows.table, best["digest"])
        if not PairSpec.from_json(row["spec"]).is_language_model:
            raise RefusedError(
                409, f"the winner of sweep {sweep} is no language model, so it has no folder; --save NAME.safetensors "
                "downloads its weights"
            )  # fmt: skip
        place, weights = place_of(run), weights_of(row["digest"])
        if not place.has(weights):
            raise UnknownSweepError(f"sweep {sweep} stores no weights of its winner, so there is no model to send")
        if place.local is not None and (place.local / weights).stat().st_size > MOST_BYTES:
            raise _too_large(sweep)
        if not self._lock.acquire(timeout=WAIT_SECONDS):
            raise RefusedError(503, "another model folder is being written: try again", {"Retry-After": "10"})
        try:
            return self._pack(run, sweep, row["digest"], name, rank)
        finally:
            self._lock.release()

    def _pack(self, run: str, sweep: str, digest: str, name: str, rank: int | None) -> Packed:
        with tempfile.TemporaryDirectory(prefix="sweeper-") as temporary:
            target = Path(temporary) / name
            found = _write_apart(run, digest, target, rank, self._memory)
            if "error" in found:
                raise SpecError(self._views.outward.text(str(found["error"])))
            if sum(f.stat().st_size for f in target.rglob("*")) > MOST_BYTES:
                raise _too_large(sweep)
            content = tempfile.TemporaryFile()  # noqa: SIM115 - the answer reads it
            try:
                pack_folder(target, content)
                size = content.tell()
                content.seek(0)
            except BaseException:
                content.close()
                raise
            return Packed(content, size, found["discarded"])


def _write_apart(run: str, digest: str, target: Path, rank: int | None, memory: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "sweeper.service.views.models", run, digest, str(target), str(memory)]
    command += [] if rank is None else [str(rank)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=SECONDS,
            env={**os.environ, "HF_HUB_OFFLINE": "1"}, check=False,
        )  # fmt: skip
        return json.loads(done.stdout.decode(errors="replace").strip().rpartition("\n")[2])
    except subprocess.TimeoutExpired:
        raise SpecError(f"the model folder took more than {SECONDS:g} s; run `sweeper best` on the server") from None
    except ValueError:
        raise SpecError("the process that writes the model folder died, perhaps for lack of memory") from None


def _too_large(sweep: str) -> RefusedError:
    text = f"the model of sweep {sweep} is larger than {MOST_BYTES / 2**30:g} GiB; run `sweeper best` on the server"
    return RefusedError(413, text)


def main(run: str, digest: str, target: str, memory: str, rank: str = "") -> int:
    """Write a winner's model folder, and print its discarded share or the error as one line of JSON."""
    if most := int(memory):
        limit_memory(most)
    from sweeper.runner.results.results import load_results
    from sweeper.runner.results.winner import export_winner, find_row
    from sweeper.storage.run_folder import runnable_spec

    try:
        row = find_row(load_results(run).trials, digest)
        saved = export_winner(run, runnable_spec(run), row, Path(target), int(rank) if rank else None)
        found: dict[str, Any] = {"discarded": saved.discarded}
    except SpecError as error:
        found = {"error": str(error)}
    except Exception as error:  # the parent has no other way to learn what happened
        found = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}
        if is_out_of_memory(error):
            text = f"the model folder needs more memory than this server allows, {most / 1e9:.3g} GB"
            found = {"error": f"{text if most else 'the server lacks the memory'}; run `sweeper best` on the server"}
    print(json.dumps(found), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
