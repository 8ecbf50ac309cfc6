"""Sweeps as records to compare: optima, best merges, cost, and what must be known before they are held together."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.formatting import ELSEWHERE, SYNTHETIC, merge_words
from sweeper.search.objectives import OBJECTIVES
from sweeper.storage.location import is_uri
from trainables.noise import KNOBS

if TYPE_CHECKING:
    import pyarrow as pa

    from sweeper.analysis.regime import Regime
    from sweeper.config.spec import SweepSpec

SPLITS = {"val": "validation", "test": "test"}


@dataclass(frozen=True)
class BestMerge:
    """The best merge of a sweep, of its best configuration's best repeat, and the scores of that trial on test.

    Attributes:
        digest: The trial.
        objective: By which objective its configuration was chosen.
        merge: The merge as words; the one chosen on validation where there is one, else linear 1/2.
        loss, accuracy: Of that merge on test [nat, 1].
        gain: Loss gain of the linear merge at 1/2 over the mean parent on test [nat].
        noise: Of the compared definition.
        knobs: Name -> value.
    """

    digest: str
    objective: str
    merge: str
    loss: float | None
    accuracy: float | None
    gain: float | None
    noise: float | None
    knobs: Mapping[str, Any]


@dataclass(frozen=True)
class SweepSummary:
    """One sweep.

    Attributes:
        name: For people; no two sweeps have the same.
        run: Its folder or URI.
        noise, objective: Which noise is shown; what the sweep searched.
        split: Split that optima and the choice of the best merge come from.
        samplers, trainables, tasks, devices: What its trials have; a task is data set and model.
        outcomes: Outcome -> trials.
        configs: Configurations with a finished trial.
        device_seconds: In all; None where no trial says it.
        regimes: Objective -> its optimum.
        best: None where no configuration may win.
    """

    name: str
    run: str
    space: str
    noise: str
    objective: str
    split: str
    samplers: tuple[str, ...]
    trainables: tuple[str, ...]
    tasks: tuple[str, ...]
    devices: tuple[str, ...]
    outcomes: Mapping[str, int]
    configs: int
    device_seconds: float | None
    regimes: Mapping[str, Regime]
    best: BestMerge | None

    @property
    def trials(self) -> int:
        """Finished trials."""
        return sum(self.outcomes.values())


@dataclass(frozen=True)
class Overlap:
    """Two sweeps' 90 % intervals of the best noise.

    Attributes:
        a, b: Names of the sweeps.
        overlap: Whether the intervals share a noise.
        factor: Optimum of b over that of a.
    """

    a: str
    b: str
    overlap: bool
    factor: float


def read_summary(
    run: str | Path, name: str, objectives: Sequence[str], noise: str | None, chosen_by: str | None
) -> SweepSummary:
    """Read one sweep.

    Args:
        run: Its folder, or the folder's URI.
        name: For people.
        objectives: Whose optima to locate.
        noise: Definition of the noise; None is the sweep's.
        chosen_by: Objective that chooses the best merge; None is the sweep's.

    Raises:
        SpecError: The folder holds no sweep, or a newer version wrote it.
    """
    from sweeper.analysis.regime import fit_regime
    from sweeper.storage.run_folder import stored_spec
    from sweeper.storage.tables import read_trials

    spec = stored_spec(run)
    trials = read_trials(run)
    noise = noise or spec.noise

    def values(column: str) -> tuple[str, ...]:
        return tuple(sorted({v for v in trials[column].to_pylist() if v}))

    seconds = [s for s in trials["device_seconds"].to_pylist() if s is not None]
    tasks = {f"{d} with {m}" for d, m in zip(*(trials[c].to_pylist() for c in ("dataset", "model")), strict=True)}
    return SweepSummary(
        name=name,
        run=str(run) if is_uri(run) else str(Path(run).absolute()),
        space=Path(spec.space).name,
        noise=noise,
        objective=spec.objective,
        split=OBJECTIVES[objectives[0]].split_in(trials),
        samplers=values("sampler"),
        trainables=values("trainable"),
        tasks=tuple(sorted(tasks)),
        devices=values("device"),
        outcomes=dict(Counter(trials["outcome"].to_pylist()).most_common()),
        configs=len(set(trials["config"].to_pylist())),
        device_seconds=math.fsum(seconds) if seconds else None,
        regimes={o: fit_regime(trials, o, noise) for o in objectives},
        best=_find_best_merge(spec, trials, chosen_by or spec.objective, noise),
    )


def _find_best_merge(spec: SweepSpec, trials: pa.Table, objective: str, noise: str) -> BestMerge | None:
    from sweeper.analysis.best import over_limits, winner
    from sweeper.analysis.posterior import Posterior, fit_posterior

    # the model is of the objective that was searched
    believed = fit_posterior(spec, trials, noise) if objective == spec.objective else Posterior()
    row = winner(trials, objective, believed, over_limits(trials, spec))
    if row is None:
        return None
    kind = "chosen" if row["chosen_merge"] else "merged"
    words = merge_words(row["chosen_merge"], row["chosen_coefficient"]) if row["chosen_merge"] else "linear at 0.5"
    return BestMerge(
        digest=row["digest"],
        objective=objective,
        merge=words,
        loss=row[f"{kind}_loss_test"],
        accuracy=row[f"{kind}_accuracy_test"],
        gain=row["gain_mean_loss_test"],
        noise=row[f"noise_{noise}"],
        knobs={k: row[k] for k in (*KNOBS, "augmentation", "augmentation_strength")},
    )


def compare_intervals(sweeps: Sequence[SweepSummary], objective: str) -> list[Overlap]:
    """Return how the intervals of each two sweeps lie, of those with the same noise and an optimum."""
    found: list[Overlap] = []
    for one, other in combinations(sweeps, 2):
        a, b = one.regimes[objective], other.regimes[objective]
        if a.optimum is None or b.optimum is None or one.noise != other.noise:
            continue
        assert a.low is not None
        assert a.high is not None
        assert b.low is not None
        assert b.high is not None
        found.append(Overlap(one.name, other.name, a.low <= b.high and b.low <= a.high, b.optimum / a.optimum))
    return found


def describe_differences(sweeps: Sequence[SweepSummary], objective: str | None) -> list[str]:
    """Return what differs between the sweeps and so must not be read as a difference of their optima.

    Args:
        sweeps: The sweeps.
        objective: What chose the best merge of each, None for each one's own.
    """
    found: list[str] = []
    for what, value, why in _DIFFERENCES:
        values = {s.name: value(s) for s in sweeps if value(s)}
        if len(set(values.values())) > 1 and not (what == "objective" and objective):
            found.append(f"the sweeps differ in {what} ({_group_by_value(values)}): {why}")
    if unknown := [s.name for s in sweeps if s.trials and s.device_seconds is None]:
        found.append(f"the device time of {', '.join(unknown)} is not known")
    for kind, text in (("synthetic", SYNTHETIC), ("imported", ELSEWHERE)):
        if some := [s.name for s in sweeps if kind in s.trainables]:
            found.append(f"{', '.join(some)}: {text}")
    return found


_DIFFERENCES: Sequence[tuple[str, Callable[[SweepSummary], str], str]] = (
    ("noise", lambda s: s.noise, "their optima are not compared; --noise NAME shows one definition for all"),
    ("objective", lambda s: s.objective, "each best merge was chosen by its own; --objective NAME takes one for all"),
    ("split", lambda s: SPLITS[s.split] if s.trials else "", "optima and choices on test are not held out"),
    ("task", lambda s: ", ".join(s.tasks), "losses and gains are not of one problem"),
    ("device", lambda s: ", ".join(s.devices), "device times are not of one machine"),
)


def _group_by_value(values: Mapping[str, str]) -> str:
    names: dict[str, list[str]] = {}
    for name, value in values.items():
        names.setdefault(value, []).append(name)
    return "; ".join(f"{', '.join(own)}: {value}" for value, own in names.items())
