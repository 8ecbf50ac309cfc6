"""Session: the bookkeeping of one sweep for every runner; it hands out jobs and takes in finished rows."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sweeper.analysis.best import Leaderboard, find_pareto_set
from sweeper.analysis.observations import Observer, is_feasible
from sweeper.analysis.trial_counts import split_warnings
from sweeper.config.prepared import PreparedSweep
from sweeper.config.trials import build, measure_share
from sweeper.errors import SpecError, StorageError
from sweeper.formatting import pluralize
from sweeper.runner.cost.budgets import Budgets
from sweeper.runner.cost.pace import make_pace
from sweeper.runner.jobs import Job, Row, was_stopped
from sweeper.runner.proposers.search import Proposal, count_configurations
from sweeper.runner.proposers.staged import make_proposer
from sweeper.runner.pruning import Judge, Pruner, estimate_savings
from sweeper.runner.status import QUIET, Callbacks, Status
from sweeper.search.objectives import OBJECTIVES, Observation
from sweeper.search.samplers import SAMPLERS
from sweeper.search.stages import MAPPING, REPORT, SEARCH, plan_stages
from sweeper.storage.compaction import AUTOMATIC, compact
from sweeper.storage.location import place_of
from sweeper.storage.schema import SearchRow
from sweeper.storage.tables import Run, read, read_rows, read_trials, weights_of, write_search
from trainables.noise import NOISE
from trainables.runtime import Runtime
from trainables.spec import PairSpec

KEEP_WEIGHTS, KEEP_BYTES = 3, 2**28
"""Merges whose weights stay, at least: more of them while all together take up less space [bytes]."""


class Session:
    """One sweep in progress.

    Args:
        sweep: The sweep, with the constants of its noise formula.
        run: Run folder; the finished trials in it count.
        runtime: Where the trials run.
        callbacks: Functions of the caller.
        k_aug: Parameters -> k_aug; None if the noise does not depend on it.
    """

    def __init__(
        self,
        sweep: PreparedSweep,
        run: Run,
        runtime: Runtime,
        callbacks: Callbacks = QUIET,
        k_aug: Callable[[Mapping[str, Any]], float] | None = None,
    ) -> None:
        self.sweep, self.k_aug, self.callbacks = sweep, k_aug, callbacks
        spec, space = self.spec, self.space = sweep.spec, sweep.space
        self.run, self.runtime = place_of(run).patient(), runtime
        self.objective = OBJECTIVES[spec.objective]
        self.status = Status(count_configurations(spec, space), repeats=spec.repeats)
        self.budgets = Budgets(spec, self.status.started)
        self.blocks = Blocks(spec.repeats)
        self._waiting_since: float | None = None
        self.leaderboard = Leaderboard(self.objective, feasible=lambda row: is_feasible(row, spec))
        self.front: dict[str, list[Row]] = {}  # for several objectives: rows of the Pareto-best configurations
        self.observer = Observer(spec, SAMPLERS[spec.sampler], [OBJECTIVES[name] for name in spec.objectives])
        self.finished: set[str] = set()  # digests of finished trials
        self.reporting: set[str] = set()  # digests of the pairs that report the winner
        judge = Judge(self.objective, self.status.budget * spec.repeats, bool(spec.further_objectives))
        self.pruner = Pruner(judge, self._noise) if spec.prune else None
        self.noise_interval: tuple[float, float] | None = None  # of the optimal noise, from the sampler
        self.halted = ""  # reason to start no further configuration
        self.broken: StorageError | None = None  # error that ended the sweep
        self.weight_bytes = KEEP_BYTES  # of one merge: unknown before the first trial
        self.weights = {name.partition(".")[0] for name in self.run.files("weights")}  # digests that may have a file
        self.open: list[int] = []  # numbers of configurations left, the next one last
        self.partial: dict[int, list[Row]] = {}  # number interrupted between its repeats -> its rows
        rows = read(self.run, "trials").to_pylist()
        known = {r["number"]: r["stage"] or SEARCH for r in rows if r["number"] is not None}
        self.plan = plan_stages(
            self.status.budget,
            spec.map or 0.0,
            spec.confirm or 0.0,
            len(spec.enqueue),
            known if spec.map or spec.confirm else None,
        )
        self.status.pace = make_pace(self.plan, spec.sampler, spec.proxy)
        self.proposer = make_proposer(sweep, k_aug, self.plan, lambda: read_trials(self.run), callbacks.say)
        self.set_workers(1)
        # failures of earlier drivers
        self.stale = {(r["digest"], r["started"]) for r in rows if r["outcome"] == "failed"}
        self._restore(rows)
        if self.plan.staged and self.open:
            self.status.show_stage(*self.plan.measure_stage(self.open[-1]))

    def set_workers(self, workers: int) -> None:
        """Tell the proposer how many trials run at a time."""
        # with a lag of `workers` alone, every worker would wait for the oldest trial
        self.proposer.set_lag(2 * workers - 1 if self.spec.order == "fixed" else None)
        self.status.workers = workers

    # -- restore ----------------------------------------------------------------------------------------------------

    def _restore(self, rows: Iterable[Row]) -> None:
        by_number: dict[int, list[Row]] = {}
        extended: list[Row] = []  # rows from `sweeper extend`, which are no configurations of the search
        for row in rows:
            if row["number"] is not None:
                by_number.setdefault(row["number"], []).append(row)
            elif row["outcome"] != "failed":
                extended.append(row)
                self._reserve(row)
        self._remember(extended)
        finished = (r["number"] for group in by_number.values() for r in group if r["outcome"] != "failed")
        count = max(finished, default=-1) + 1
        if count > self.spec.trials:
            raise SpecError(
                f"trials must be at least {count}, the number of configurations in the run folder, got "
                f"{self.spec.trials}"
            )
        last = max(by_number, default=-1)
        for number in range(self.status.budget):
            group = by_number.get(number, [])
            done = [r for r in group if r["outcome"] != "failed"]
            for row in done:
                self._reserve(row)
            if len(done) >= self.spec.repeats or was_stopped(done):
                observation = self.observer.observe(done)
                assert observation is not None
                self.proposer.tell(number, self._params(done[0]), observation)
                self.status.note_done(self.plan.measure_stage(number)[0])
                self._remember(done)
            else:
                self.open.append(number)
                if done:
                    self.partial[number] = done
                    self.proposer.keep(number, self._params(done[0]), bool(done[0].get("proxy")))
                elif group:  # it failed, and this session tries it again
                    self.proposer.add_failure(number, self._params(group[0]))
                elif number < last:
                    self.proposer.keep(number)
        if self.pruner:
            rows = [row for group in by_number.values() for row in group]
            self.pruner.restore(rows, read(self.run, "rungs").to_pylist())
        self.open.reverse()
        self._prune_weights()

    def _reserve(self, row: Row) -> None:
        self.blocks.reserve(row["config"], row["repeat"] // self.spec.repeats, row["number"])

    def _params(self, row: Row) -> dict[str, Any]:
        return self.space.params_of(PairSpec.from_json(row["spec"]))

    def report(self) -> None:
        """Show the status to the listener."""
        self.callbacks.listener(self.status)

    # -- jobs -------------------------------------------------------------------------------------------------------

    def next_job(self) -> Job | None:
        """Return the trials of the next configuration; None if the session starts no further one."""
        if not self.open or self.is_over():  # without further ones, no budget ends the session early
            return None
        number = self.open[-1]
        if number not in self.partial and not self.proposer.is_ready(number):
            self._waiting_since = self._waiting_since or time.monotonic()
            return None
        if self._waiting_since is not None:
            self.status.waited += time.monotonic() - self._waiting_since
            self._waiting_since = None
        asked = time.monotonic()
        job = self._prepare_job(number)
        if job is None:
            return None
        self.open.remove(number)
        if self.plan.staged:
            self.status.show_stage(*self.plan.measure_stage(number))
        self.status.running += 1
        self.status.pace.note_start(number, time.monotonic(), number, self.status.stage, asked)
        self.report()
        return job

    @property
    def waiting(self) -> bool:
        """Whether the next configuration needs the results of running ones."""
        return bool(self.open) and not self.halted

    def _prepare_job(self, number: int) -> Job | None:
        if number in self.partial:
            return self._complete(number, self.partial[number])
        try:
            return self._job(number, self.proposer.ask(number))
        except SpecError as error:  # no configuration to confirm
            self.halt(str(error))
            return None

    def is_over(self) -> bool:
        """Return whether the session starts no further configuration."""
        if not self.halted:
            self.halt(self.callbacks.stop() or self.budgets.spent())
        return bool(self.halted)

    def _job(self, number: int, proposal: Proposal) -> Job:
        spec = self._build(proposal.params, proposal.stage)
        first = self.blocks.take(spec.config, number) * self.spec.repeats
        specs = tuple(replace(spec, repeat=first + i) for i in range(self.spec.repeats))
        predicted = self._noise(spec)
        thoughts = proposal.thoughts or {}
        row = SearchRow(
            number=number,
            config=spec.config,
            params=json.dumps(proposal.params),
            sampler=self.spec.sampler,
            noise_target=predicted,
            seconds_ask=proposal.seconds,
            stage=proposal.stage,
            **{k: thoughts.get(k) for k in ("origin", "optimum", "optimum_low", "optimum_high", "variance_share")},
            exponents=None if (v := thoughts.get("exponents")) is None else json.dumps(v),
        )
        write_search(self.run, row)
        self.status.target = predicted
        ends = thoughts.get("optimum_low"), thoughts.get("optimum_high")
        self.noise_interval = (ends[0], ends[1]) if ends[0] is not None and ends[1] is not None else None
        return Job(
            number, specs, self._context(proposal.target, proposal.stage, self._proxy_share(spec, proposal.stage))
        )

    def _complete(self, number: int, rows: list[Row]) -> Job:
        first = rows[0]["repeat"] - rows[0]["repeat"] % self.spec.repeats
        stage = rows[0]["stage"]
        spec = self._build(self._params(rows[0]), stage)
        specs = [replace(spec, repeat=first + i) for i in range(self.spec.repeats)]
        done = {r["digest"] for r in rows}
        return Job(
            number,
            tuple(s for s in specs if s.digest not in done),
            self._context(rows[0]["noise_target"], stage, self._proxy_share(spec, stage)),
        )

    def _build(self, params: Mapping[str, Any], stage: str | None = None) -> PairSpec:
        return build(self.spec, self.space, params, proxy=stage in MAPPING)

    def _proxy_share(self, trial: PairSpec, stage: str | None) -> float | None:
        if self.spec.proxy is None or stage not in MAPPING:
            return None
        return measure_share(trial, self._build(self.space.params_of(trial)))

    def _context(self, target: float | None, stage: str | None = None, proxy: float | None = None) -> dict[str, Any]:
        return {
            "sweep_seed": self.spec.seed,
            "space": self.space.name,
            "sampler": self.spec.sampler,
            "noise_target": target,
            "stage": stage,
            "proxy": proxy,
        }

    def _noise(self, spec: PairSpec) -> float | None:
        scale = NOISE[self.spec.noise]
        settings = {k: getattr(spec, k) for k in scale.needs if hasattr(spec, k)}
        if self.k_aug is not None:
            settings["k_aug"] = self.k_aug(self.space.params_of(spec))
        try:
            return scale.predict({**self.sweep.constants, **settings})
        except ValueError:
            return None  # the space lacks a value of the formula

    def rows_on_disk(self, job: Job) -> list[Row]:
        """Return the rows of a job that its worker wrote before it died, without failures of earlier drivers."""
        rows = read_rows(self.run, "trials", [s.digest for s in job.specs])
        return [r for r in rows if (r["digest"], r["started"]) not in self.stale]

    def keep_partial(self, job: Job, done: list[Row]) -> None:
        """Keep the rows of a job whose worker died; a further attempt runs the rest of the job."""
        if done and job.number is not None:
            kept = self.partial.setdefault(job.number, [])
            kept += [r for r in done if r["digest"] not in {k["digest"] for k in kept}]

    # -- rungs ------------------------------------------------------------------------------------------------------

    def look(self, job: Job, record: Mapping[str, Any]) -> str | None:
        """Take in the report of a running trial; returns the reason to stop it, or None."""
        if self.pruner is None or "rung" not in record or job.number is None:
            return None
        if job.context["stage"] not in (None, SEARCH):  # evidence needs whole trials
            return None
        before = [*self.partial.get(job.number, []), *record["before"]]
        return self.pruner.look(job.specs[0], {**record, "before": before}, self.status.best, self.noise_interval)

    # -- rows -------------------------------------------------------------------------------------------------------

    def finish(self, job: Job, rows: list[Row]) -> None:
        """Learn from the rows of a finished job."""
        assert job.number is not None
        self.status.pace.note_end(job.number, time.monotonic())
        if self.pruner:
            self.pruner.learn(rows)
        rows = [*self.partial.pop(job.number, []), *rows]
        observation = self.observer.observe(rows)
        self.proposer.tell(job.number, self.space.params_of(job.specs[0]), observation or Observation())
        self._settle(rows, failed=observation is None, stage=self.plan.measure_stage(job.number)[0])

    def _settle(self, rows: list[Row], failed: bool, stage: str = "") -> None:
        self.status.running -= 1
        self.status.device = next((r["device"] for r in rows if r.get("device")), self.status.device)
        self.status.failed += failed
        if not failed:
            self.status.note_done(stage)
        self._remember(rows)
        self.weights.update(r["digest"] for r in rows)
        self._prune_weights()
        if failed and self.status.failed >= self.spec.max_failed:
            self.halt(
                f"{pluralize(self.status.failed, 'configuration')} failed, the last one: {rows[-1]['outcome_detail']}"
            )
        self.report()

    def compact(self) -> None:
        """Merge the files of the tables; only while no trial runs. If storage fails, readers just take longer."""
        if self.broken:  # another driver may have the folder by now
            return
        try:
            compact(self.run, AUTOMATIC)
        except StorageError as error:
            self.status.warnings.setdefault("not_compacted", f"{error}; `sweeper compact` makes one file of many")
            self.report()

    def halt(self, reason: str) -> None:
        """Start no further configuration."""
        self.halted = self.halted or reason

    def break_off(self, error: StorageError) -> None:
        """Start no further configuration, because this driver lost the run folder."""
        self.broken = self.broken or error
        self.halt(str(error))

    def _remember(self, rows: Sequence[Row]) -> None:
        self.callbacks.finished(rows)
        self.status.pruned += was_stopped(rows)
        self.status.saved_seconds += estimate_savings(rows)[0]
        for row in rows:
            self.finished.add(row["digest"])
            self.weight_bytes = 4 * (row.get("parameters") or 0) or self.weight_bytes
            if row.get("stage") == REPORT:
                self.reporting.add(row["digest"])
            self.budgets.add(row)
            self.leaderboard.add(row)
            if self.spec.further_objectives:
                self.front.setdefault(row["config"], []).append(row)
            for key, sentence in split_warnings(row.get("warnings")):
                self.status.warnings.setdefault(key, sentence)
        self.status.best = next((s.mean for s in self.leaderboard.first(1)), None)

    def _pareto(self) -> list[dict[str, Any]]:
        # drop beaten configurations for good: a search over all trials every time would be quadratic in their number
        rows = [row for group in self.front.values() for row in group]
        best = find_pareto_set(rows, self.spec.objectives, lambda row: is_feasible(row, self.spec)) if rows else []
        self.front = {r["config"]: self.front[r["config"]] for r in best}
        return best

    def _prune_weights(self) -> None:
        # the model chooses the winner at the end, and it may like another one best than the leaderboard does
        keep = {s.digest for s in self.leaderboard.first(max(KEEP_WEIGHTS, KEEP_BYTES // max(1, self.weight_bytes)))}
        keep.update(r["digest"] for r in self._pareto())
        keep |= self.reporting
        # a file without a finished trial is being written, or a crash left it and a further attempt rewrites it
        for digest in (self.weights & self.finished) - keep:
            self.run.remove(weights_of(digest))
            self.weights.discard(digest)


class Blocks:
    """Blocks of repeats of the configurations: each number of a sweep owns one block of its configuration.

    A number takes as many blocks as smaller numbers have the same configuration, whatever finished first; so a resume
    fills a gap with the same trials.

    Args:
        repeats: Trials per block.
    """

    def __init__(self, repeats: int) -> None:
        self.repeats = repeats
        self._owners: dict[str, dict[int, int | None]] = {}  # configuration -> block -> its number; None: an extension

    def reserve(self, config: str, block: int, number: int | None) -> None:
        """Mark a block of the run folder as taken."""
        self._owners.setdefault(config, {})[block] = number

    def take(self, config: str, number: int) -> int:
        """Return the block of a number that starts."""
        owners = self._owners.setdefault(config, {})
        block = sum(owner is not None and owner < number for owner in owners.values())
        while block in owners:
            block += 1
        owners[block] = number
        return block
