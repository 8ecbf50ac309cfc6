"""Session: the bookkeeping of one sweep, the same for every runner. Jobs out, finished rows in."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from search_spaces import Space
from trainables.noise import KNOBS, NOISE
from trainables.runtime import Runtime
from trainables.spec import PairSpec

from .jobs import Job, Row
from .objective import OBJECTIVES
from .proposer import Proposal, Proposer, make_proposer
from .spec import SweepSpec
from .store import SearchRow, read, write_search

KEEP_WEIGHTS = 3
# from here on a stack of members is faster than a loop: 8 members at batches of up to 32 (measured, see LOG.md)
STACK_MEMBERS, STACK_BATCH = 8, 32


@dataclass
class Status:
    """Where a sweep stands, in configurations."""

    budget: int
    done: int = 0
    running: int = 0
    failed: int = 0
    best: float | None = None
    target: float | None = None
    started: float = field(default_factory=time.monotonic)


def _defaults(space: Space) -> dict[str, float]:
    # what the space does not vary stands in the noise formulas all the same
    some = space.build({name: _any(d) for name, d in space.knobs.items()})
    return {k: getattr(some, k) for k in KNOBS if k not in space.knobs}


def _any(distribution: Any) -> Any:
    return distribution.choices[0] if hasattr(distribution, "choices") else distribution.low


class Session:
    """One sweep in progress.

    Args:
        spec: The sweep.
        space: Its search space.
        run: Run folder; finished trials in it count.
        runtime: Where trials run.
        constants: Further settings that noise formulas need, such as `examples`.
        listener: Called with the status after every change.
    """

    def __init__(
        self,
        spec: SweepSpec,
        space: Space,
        run: Path,
        runtime: Runtime,
        constants: Mapping[str, float],
        listener: Callable[[Status], None] = lambda _: None,
    ) -> None:
        self.spec, self.space, self.run, self.runtime = spec, space, run, runtime
        self.constants = {**_defaults(space), **constants}
        self.objective = OBJECTIVES[spec.objective]
        self.proposer: Proposer = make_proposer(spec, space, self.constants)
        self.listener = listener
        self.status = Status(spec.trials)
        self.repeats: Counter[str] = Counter()  # repeats of each configuration that exist or run
        self.best: list[tuple[float, str]] = []  # (objective, digest), best first
        self.finished: set[str] = set()  # digests of finished trials
        self.halted = ""  # why no further configuration is started
        self.open: list[int | tuple[int, Row]] = []  # numbers to do, or unfinished ones with their first row
        self._restore(read(run, "trials").to_pylist())

    # -- what is there already ------------------------------------------------------------------------------------

    def _restore(self, rows: Iterable[Row]) -> None:
        finished: dict[int, list[Row]] = {}
        for row in rows:
            if row["outcome"] != "failed" and row["number"] is not None:
                finished.setdefault(row["number"], []).append(row)
        for number in range(self.spec.trials):
            own = finished.get(number, [])
            for row in own:
                self.repeats[row["config"]] = max(self.repeats[row["config"]], row["repeat"] + 1)
                self._remember(row)
            if len(own) >= self.spec.repeats:
                self.proposer.add(self._params(own[0]), self._value(own))
                self.status.done += 1
            else:
                self.open.append((number, own[0]) if own else number)
        self.open.reverse()
        self._prune_weights()

    def _params(self, row: Row) -> dict[str, Any]:
        spec = json.loads(row["spec"])
        return {name: spec[name] for name in self.space.knobs}

    def _value(self, rows: Iterable[Row]) -> float | None:
        values = [self.objective.tell(r) for r in rows if r["outcome"] != "failed"]
        return sum(values) / len(values) if values else None

    # -- jobs out -------------------------------------------------------------------------------------------------

    def next_job(self) -> Job | None:
        """Return the next configuration's trials, or None when none is to be started any more."""
        if self.spec.max_seconds and time.monotonic() - self.status.started > self.spec.max_seconds:
            self.halt(f"the {self.spec.max_seconds:g} seconds are over")
        if self.halted or not self.open:
            return None
        item = self.open.pop()
        if isinstance(item, tuple):
            number, row = item
            job = self._complete(number, row)
        else:
            number = item
            proposal = self.proposer.ask(number)
            if proposal is None:
                self.open.clear()
                self.status.budget = self.status.done + self.status.running
                return None
            job = self._job(number, proposal)
        self.status.running += 1
        self.listener(self.status)
        return job

    def _job(self, number: int, proposal: Proposal) -> Job:
        spec = self._build(proposal.params)
        first = self.repeats[spec.config]
        first += -first % spec.stack  # a stack begins at a multiple of its size
        self.repeats[spec.config] = first + self.spec.repeats
        specs = tuple(self._build(proposal.params, first + i) for i in range(self.spec.repeats))
        predicted = self._noise(spec)
        thoughts = dict(proposal.thoughts or {})
        exponents = thoughts.pop("exponents", None)
        row = SearchRow(
            number=number,
            config=spec.config,
            params=json.dumps(proposal.params),
            sampler=self.spec.sampler,
            noise_target=predicted,
            seconds_ask=proposal.seconds,
            exponents=json.dumps(exponents) if exponents is not None else None,
            **{k: thoughts.get(k) for k in ("origin", "optimum", "optimum_low", "optimum_high")},
        )
        write_search(self.run, row)
        self.status.target = predicted
        return Job(number, specs, self._context(proposal.target))

    def _complete(self, number: int, row: Row) -> Job:
        # the repeats of a configuration that were not finished before the interruption
        first = row["repeat"] - row["repeat"] % self.spec.repeats
        specs = [self._build(self._params(row), first + i) for i in range(self.spec.repeats)]
        left = tuple(s for s in specs if s.digest not in self.finished)
        return Job(number, left, self._context(row["noise_target"]))

    def _build(self, params: Mapping[str, Any], repeat: int = 0) -> PairSpec:
        spec = self.space.build(params, seed=self.spec.seed, repeat=repeat)
        large = 2 * self.spec.repeats >= STACK_MEMBERS and spec.batch_size <= STACK_BATCH
        stacked = self.spec.stack == "on" or (self.spec.stack == "auto" and large)
        return replace(spec, stack=self.spec.repeats) if stacked else spec

    def _context(self, target: float | None) -> dict[str, Any]:
        return {
            "sweep_seed": self.spec.seed,
            "space": self.space.name,
            "sampler": self.spec.sampler,
            "noise_target": target,
        }

    def _noise(self, spec: PairSpec) -> float | None:
        scale = NOISE[self.spec.noise]
        settings = {k: getattr(spec, k) for k in scale.needs if hasattr(spec, k)}
        try:
            return scale.predict({**self.constants, **settings})
        except ValueError:
            return None  # a formula that needs what this space does not have

    def rows_on_disk(self, job: Job) -> list[Row]:
        """Return the rows of a job that were written before its worker died."""
        digests = {s.digest for s in job.specs}
        return [r for r in read(self.run, "trials").to_pylist() if r["digest"] in digests]

    # -- rows in --------------------------------------------------------------------------------------------------

    def finish(self, job: Job, rows: list[Row]) -> None:
        """Learn from the rows of a finished job."""
        value = self._value(rows)
        self.proposer.tell(job.number, value)
        self.status.running -= 1
        self.status.done += value is not None
        self.status.failed += value is None
        for row in rows:
            self._remember(row)
        self._prune_weights()
        if value is None and self.status.failed >= self.spec.max_failed:
            self.halt(f"{self.status.failed} configurations failed, the last one: {rows[-1]['outcome_detail']}")
        self.listener(self.status)

    def halt(self, reason: str) -> None:
        """Start no further configuration."""
        self.halted = self.halted or reason

    def _remember(self, row: Row) -> None:
        self.finished.add(row["digest"])
        value = row.get(self.objective.column)
        if row["outcome"] != "ok" or value is None or not math.isfinite(value):
            return
        self.best.append((value, row["digest"]))
        self.best.sort(reverse=self.objective.maximize)
        self.status.best = self.best[0][0]

    def _prune_weights(self) -> None:
        keep = {digest for _, digest in self.best[:KEEP_WEIGHTS]}
        for path in (self.run / "weights").glob("*.safetensors"):
            # a file that belongs to no finished trial is being written, or was left by a crash: it is remade
            if path.stem not in keep and path.stem in self.finished:
                path.unlink(missing_ok=True)
