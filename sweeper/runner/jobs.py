"""Jobs: the trials of one configuration, each written to the run folder as soon as it ends."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from sweeper.errors import StorageError
from sweeper.storage.checkpoints import CHECKPOINTS, Checkpoints, checkpoints_of, on_node
from sweeper.storage.location import Place, place_of
from sweeper.storage.retry import is_full, is_passing, line, restart
from sweeper.storage.tables import Run, write
from trainables.datasets.cache import drop_checkpoints
from trainables.pair.record import make_failed_output, make_pruned_output, now
from trainables.result import PairOutput
from trainables.runtime import Report, Runtime
from trainables.spec import PairSpec
from trainables.trial import run_trials

Row = dict[str, Any]
Trials = Callable[[Sequence[PairSpec], Runtime, Report], Sequence[PairOutput]]
"""Function that runs trials which differ only in `repeat`; see `trainables.trial.run_trials`."""


class WorkerLost(Exception):  # noqa: N818  (reads as what it says)
    """A process of a trial died: the trial did not fail and may run again."""


@dataclass(frozen=True)
class Job:
    """The trials of one configuration.

    Attributes:
        number: Number of the configuration in the sweep; None for an extension.
        specs: The trials, one per repeat.
        context: Columns of the trials table whose values come from the sweep.
    """

    number: int | None
    specs: tuple[PairSpec, ...]
    context: Mapping[str, Any]

    def to_json(self) -> str:
        """Return the job as text for `from_json`."""
        specs = [json.loads(s.to_json()) for s in self.specs]
        return json.dumps({"number": self.number, "specs": specs, "context": dict(self.context)})

    @classmethod
    def from_json(cls, text: str) -> Job:
        """Return the job of a text from `to_json`."""
        data = json.loads(text)
        specs = tuple(PairSpec.from_mapping(s) for s in data["specs"])
        return cls(data["number"], specs, data["context"])


def execute(
    job: Job, runtime: Runtime, run: Run, report: Report = lambda _: None, trials: Trials | None = None
) -> list[Row]:
    """Run the trials of a job, write each to the run folder, and return their rows without the column `spec`.

    A trial that raises becomes a row with outcome `failed`. If the report stops a trial, its remaining repeats do not
    run.

    Args:
        job: The trials.
        runtime: Where the trials run.
        run: The run folder; its storage may be away for a while, see `sweeper.storage.retry`.
        report: Called with the reports of the trials, and with `before`, the rows of the repeats that ended.
        trials: Runs the trials in processes that store their checkpoints; None is `run_trials`, in this process.

    Raises:
        StorageError: The run folder cannot be written to; trials without a row did not fail.
        WorkerLost: From `trials`.
    """
    rows: list[Row] = []

    def with_rows(record: Mapping[str, object]) -> None:
        report({**record, "before": rows})

    place = place_of(run).patient()
    runtime = on_node(runtime, place)
    for group in _groups(job.specs):
        first = _first_mate(group[0])
        checkpoints = checkpoints_of(place, runtime, first, elsewhere=trials is not None)
        outputs = _outputs(group, runtime, place, checkpoints, with_rows, trials or run_trials)
        rows += [_commit(place, job, output) for output in outputs]
        if checkpoints:
            checkpoints.drop()
        drop_checkpoints(runtime, first)
        if was_stopped(rows):
            break
    return rows


def _outputs(
    group: Sequence[PairSpec],
    runtime: Runtime,
    place: Place,
    checkpoints: Checkpoints | None,
    report: Report,
    trials: Trials,
) -> Sequence[PairOutput]:
    def run(report: Report) -> Sequence[PairOutput]:
        return trials(group, runtime, report)

    started = now()
    try:
        if checkpoints:
            return checkpoints.wrap(run, report)
        # the run folder holds start weights and trunks; a checkpoint keeps the training
        return restart(lambda: run(report), place.seconds)
    except (StorageError, WorkerLost):
        raise
    except Exception as error:
        away = isinstance(error, OSError) and is_passing(error, remote=False) and _within(error, place)
        if is_full(error) or away:
            text = f"cannot {'reach' if away else 'write'} what trial {group[0].digest} needs: {line(error)}"
            raise StorageError(text) from None
        return [make_failed_output(spec, runtime, error, started) for spec in group]


def _within(error: OSError, place: Place) -> bool:
    folder = place.local and place.local.absolute()
    if error.filename is None:
        return False
    return folder is not None and Path(str(error.filename)).absolute().is_relative_to(folder)


def was_stopped(rows: Iterable[Row]) -> bool:
    """Return whether pruning stopped one of a configuration's trials, which ends the configuration."""
    return any(r.get("pruned_step") is not None for r in rows)


def prune(job: Job, run: Run, outputs: Iterable[PairOutput], reason: str, done: Sequence[Row]) -> list[Row]:
    """Write the trials of a job that the driver stopped, and return all its rows, with those `done` before."""
    left = {s.digest for s in job.specs} - {r["digest"] for r in done}
    rows = [*done, *(_commit(run, job, make_pruned_output(o, reason)) for o in outputs if o.result.digest in left)]
    _remove_checkpoints(run, job.specs)
    return rows


def give_up(job: Job, runtime: Runtime, run: Run, error: Exception, done: Sequence[Row]) -> list[Row]:
    """Write the trials of a job whose worker died of an error, and return all its rows, with those `done` before."""
    left = [s for s in job.specs if s.digest not in {r["digest"] for r in done}]
    lost = [_commit(run, job, make_failed_output(s, runtime, error, now())) for s in left]
    _remove_checkpoints(run, job.specs)
    return [*done, *lost]


def _first_mate(spec: PairSpec) -> str:
    # names the checkpoints of trials that train together
    return spec.stack_mates()[0].digest


def _remove_checkpoints(run: Run, specs: Iterable[PairSpec]) -> None:
    # the workers of these trials died, so nothing continues from their checkpoints
    place, prefixes = place_of(run), tuple(_first_mate(s) for s in specs)
    for name in place.files(CHECKPOINTS):
        if name.startswith(prefixes):
            place.remove(f"{CHECKPOINTS}/{name}")


def _groups(specs: Sequence[PairSpec]) -> Iterator[list[PairSpec]]:
    # a stack trains together; other repeats one by one, so that each is on disk as soon as it ends
    for _, group in groupby(specs, key=lambda s: s.repeat // s.stack):
        yield list(group)


def _commit(run: Run, job: Job, output: PairOutput) -> Row:
    result = replace(output.result, number=job.number, **job.context)
    rungs = tuple(replace(r, number=job.number) for r in output.rungs)
    write(run, replace(output, result=result, rungs=rungs))
    return {k: v for k, v in result.to_row().items() if k != "spec"}
