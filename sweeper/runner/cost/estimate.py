"""Estimate of a sweep's cost before it starts: its trials by stage, and with a pilot their time on this hardware."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from sweeper.analysis.trial_counts import count_gpus
from sweeper.client.models import Estimate
from sweeper.config.prepared import PreparedSweep, prepare, set_defaults
from sweeper.config.space import middle_params
from sweeper.config.spec import SweepSpec
from sweeper.config.trials import measure_share, shorten
from sweeper.errors import SpecError
from sweeper.formatting import at_share, number, pluralize
from sweeper.runner.preflight import check_sweep, describe_shortage, fit_to_ranks
from sweeper.runner.run import run_prepared
from sweeper.runner.status import Callbacks, Status
from sweeper.search.stages import MAP, TITLES, plan_stages
from trainables.result import Outcome

_DRAWS = 512
_ONCE = ("seconds_data", "seconds_base")
"""Phases that later trials share."""
_BATCH = "batch_size"

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Pilot:
    """Two trials at the smallest and the largest batch size of a sweep.

    Attributes:
        rows: Their rows.
        workers: Trials that run at a time.
        startup: Seconds before the first trial.
    """

    rows: tuple[Row, ...]
    workers: int
    startup: float


def estimate_cost(sweep: PreparedSweep, with_pilot: bool, callbacks: Callbacks) -> Estimate:
    """Return the cost of a sweep that can run; without a pilot nothing is trained.

    The time of a trial is its optimizer steps times the time of a step, which is linear in the batch size between the
    pilots, plus the time of scores and measurements. It is averaged over the sweep's batch sizes; knobs other than the
    batch size are taken at the middle of their ranges.

    Args:
        sweep: The sweep.
        with_pilot: Whether to run two of its trials.
        callbacks: Functions of the caller.

    Raises:
        SpecError: The sweep cannot run, or no pilot trained to its end.
    """
    sweep = set_defaults(sweep)
    spec = sweep.spec
    for line in describe_shortage(spec):
        callbacks.say(line)
    trials = spec.trials * spec.repeats
    shape = f"{pluralize(spec.trials, 'configuration')}, {pluralize(trials, 'trial')}{_describe_stages(spec)}"
    if not with_pilot:
        check_sweep(fit_to_ranks(sweep))
        message = f"{shape}; --pilot runs two trials and estimates the time"
        return Estimate(configurations=spec.trials, trials=trials, message=message)
    pilot = run_pilot(sweep, callbacks)
    total = _predict_total(sweep, pilot.rows)
    each = total / trials
    gpus = max(count_gpus(row, spec.resources) for row in pilot.rows)
    wall = pilot.startup + total / min(pilot.workers, trials)
    text = f"{shape} of {number(each)} s each on {pluralize(pilot.workers, 'worker')} ({pilot.rows[0]['device']})"
    return Estimate(
        configurations=spec.trials,
        trials=trials,
        seconds_per_trial=each,
        device_seconds=total,
        wall_seconds=wall,
        gpu_hours=gpus * total / 3600,
        message=f"{text}, {number(gpus * total / 3600)} GPU hours" if gpus else text,
    )


def _count_stages(spec: SweepSpec) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for segment in plan_stages(spec.trials, spec.map or 0.0, spec.confirm or 0.0).segments:
        sizes[TITLES[segment.stage]] = sizes.get(TITLES[segment.stage], 0) + len(segment)
    return sizes


def _describe_stages(spec: SweepSpec) -> str:
    sizes = _count_stages(spec)
    parts = [f"{title} {size}{at_share(spec.proxy if title == MAP else None)}" for title, size in sizes.items()]
    return f" ({', '.join(parts)})" if len(sizes) > 1 else ""


def _predict_total(sweep: PreparedSweep, rows: Sequence[Row]) -> float:
    spec = sweep.spec
    short = _count_stages(spec).get(MAP, 0) if spec.proxy else 0
    total = predict_seconds(sweep, rows) * (spec.trials - short)
    if spec.proxy and short:
        full = sweep.corners[0]
        total += predict_seconds(sweep, rows, measure_share(shorten(full, spec.proxy), full)) * short
    return total * spec.repeats


def run_pilot(sweep: PreparedSweep, callbacks: Callbacks) -> Pilot:
    """Run the pilots of a sweep where and as its trials would run, in a folder that is removed afterwards.

    Raises:
        SpecError: The sweep cannot run, or a pilot did not end `ok`.
    """
    spec, seen = sweep.spec, dict[str, float]()
    points = _choose_points(sweep)
    started = time.monotonic()

    def note(status: Status) -> None:
        seen["workers"] = float(status.workers or 1)
        if status.pace.begun is not None:
            seen.setdefault("startup", status.pace.begun - started)
        callbacks.listener(status)

    parent = Path(spec.out).parent if spec.out and "://" not in spec.out else None
    folder = Path(tempfile.mkdtemp(prefix="sweeper-pilot-", dir=parent if parent and parent.is_dir() else None))
    changes = {
        "trials": len(points), "enqueue": points, "sampler": "random", "map": 0.0, "confirm": 0.0, "repeats": 1,
        "out": str(folder / "run"), "prune": False, "prior": (), "track": (), "max_seconds": None,
        "max_gpu_hours": None, "until_interval": None, "proxy": None,
    }  # fmt: skip
    given = {**spec.model_dump(exclude_unset=True), **changes}
    try:
        results = run_prepared(prepare(SweepSpec.checked(given)), Callbacks(note, say=callbacks.say))
        rows = results.trials.to_pylist()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if results.interrupted:
        raise KeyboardInterrupt
    lost = [row for row in rows if row["outcome"] not in (Outcome.OK, Outcome.NOT_VIABLE)]
    if lost or not rows:
        why = lost[0]["outcome_detail"] if lost else results.reason
        raise SpecError(
            f"the pilot at the middle of the space did not train to its end, so its time says nothing: {why}"
        )
    return Pilot(tuple(rows), round(seen.get("workers", 1)), seen.get("startup", 0.0))


def _choose_points(sweep: PreparedSweep) -> tuple[dict[str, Any], ...]:
    middle = middle_params(sweep.space)
    knob: Any = sweep.space.knobs.get(_BATCH)
    if knob is None:
        return (middle,)
    sizes = knob.choices if hasattr(knob, "choices") else (knob.low, knob.high)
    return tuple({**middle, _BATCH: size} for size in dict.fromkeys((min(sizes), max(sizes))))


def predict_seconds(sweep: PreparedSweep, rows: Sequence[Row], share: float = 1.0) -> float:
    """Return the expected device time of a trial [s], over the batch sizes of a sweep.

    Args:
        sweep: The sweep.
        rows: Rows of its pilots, with `batch_size`, `examples`, `steps` and the seconds of their phases.
        share: Share of the training budget.
    """
    if any(not row["steps"] or not row["examples"] for row in rows):  # they train nothing
        return mean(row["device_seconds"] for row in rows)
    sizes = np.array([row[_BATCH] for row in rows], dtype=float)
    per_step = np.array([row["seconds_train"] / row["steps"] for row in rows])
    trial, examples = sweep.space.build(middle_params(sweep.space)), rows[0]["examples"]
    # children from scratch train a base of their own in every trial
    once = [phase for phase in _ONCE if phase != "seconds_base" or trial.protocol != "scratch"]
    rest = mean(
        row["device_seconds"] - row["seconds_train"] - sum(row.get(phase) or 0.0 for phase in once) for row in rows
    )
    drawn = _draw_sizes(sweep.space.knobs.get(_BATCH), sizes)
    order = np.argsort(sizes)
    steps = np.array([trial.steps or max(1, examples // int(size)) * trial.epochs for size in drawn])
    return share * float(np.mean(steps * np.interp(drawn, sizes[order], per_step[order]))) + max(0.0, rest)


def _draw_sizes(knob: Any, pilots: np.ndarray) -> np.ndarray:
    if knob is None:
        return pilots[:1]
    if hasattr(knob, "choices"):
        return np.array(knob.choices, dtype=float)
    places = (np.arange(_DRAWS) + 0.5) / _DRAWS
    if knob.log:
        return np.round(np.exp(np.log(knob.low) + places * np.log(knob.high / knob.low)))
    return np.round(knob.low + places * (knob.high - knob.low))
