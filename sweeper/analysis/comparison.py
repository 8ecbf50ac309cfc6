"""Comparison of sweeps: optima, best merges, cost, and the differences that limit a comparison."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.formatting import ELSEWHERE, SYNTHETIC, merge_words, pluralize
from sweeper.search.objectives import OBJECTIVES, SPLIT_WORDS
from sweeper.storage.location import is_uri
from trainables.noise import KNOBS

if TYPE_CHECKING:
    import pyarrow as pa

    from sweeper.analysis.regime import Regime
    from sweeper.config.spec import SweepSpec


LINEAR = "linear at 0.5"


@dataclass(frozen=True)
class BestMerge:
    """The best merge of a sweep, with its test scores.

    The scores are the means of the fresh pairs that confirmed it; without any, those of the best repeat.

    Attributes:
        digest: The trial.
        objective: Objective that chose the configuration.
        merge: Words for the merge: linear at 1/2 of the fresh pairs, else the one that validation chose.
        loss, accuracy: Scores of that merge on test [nat, 1].
        gain: Loss gain of the linear merge at 1/2 over the mean parent on test [nat].
        noise: Noise of the trial, in the compared definition.
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
    """A sweep as a comparison shows it.

    Attributes:
        name: Display name, unique among the compared sweeps.
        run: Its folder or URI.
        noise, objective: Noise definition shown, and objective that the sweep searched.
        split: Split that sets the optima and the best merge.
        samplers, trainables, tasks, devices: Distinct values among its trials; a task is a data set with a model.
        outcomes: Outcome -> trials.
        configs: Number of configurations with a finished trial.
        device_seconds: Total device time; None if no trial records it.
        regimes: Objective -> its optimum.
        best: The best merge; None if no configuration may win.
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
        """Number of finished trials."""
        return sum(self.outcomes.values())


@dataclass(frozen=True)
class Overlap:
    """Overlap of two sweeps' 90 % intervals of the best noise.

    Attributes:
        a, b: Names of the sweeps.
        overlap: Whether the intervals share a noise.
        factor: Optimum of b divided by the optimum of a.
    """

    a: str
    b: str
    overlap: bool
    factor: float


def read_summary(
    run: str | Path, name: str, objectives: Sequence[str], noise: str | None, chosen_by: str | None
) -> SweepSummary:
    """Return one sweep as a comparison shows it.

    Args:
        run: Path or URI of its folder.
        name: Display name.
        objectives: Objectives whose optima to locate.
        noise: Definition of the noise; None takes the sweep's.
        chosen_by: Objective that chooses the best merge; None takes the sweep's.

    Raises:
        SpecError: The folder holds no sweep, or a newer version wrote the folder.
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
    from sweeper.analysis.best import choose_winner, find_over_limits
    from sweeper.analysis.posterior import Posterior, fit_posterior

    # the model covers only the searched objective
    posterior = fit_posterior(spec, trials, noise, explain=False) if objective == spec.objective else Posterior()
    row = choose_winner(trials, objective, posterior, find_over_limits(trials, spec))
    if row is None:
        return None
    kind = "chosen" if row["chosen_merge"] else "merged"
    choice = row["chosen_merge"], row["chosen_coefficient"], row.get("chosen_window")
    words = merge_words(*choice) if row["chosen_merge"] else LINEAR
    scores = {
        "loss": row[f"{kind}_loss_test"],
        "accuracy": row[f"{kind}_accuracy_test"],
        "gain": row["gain_mean_loss_test"],
    }
    if confirmed := row["confirmed"]:  # the pairs that chose nothing, as in `best`
        words = f"{LINEAR}, mean of {pluralize(confirmed['pairs'], 'fresh pair')}"
        stems = {"loss": "merged_loss", "accuracy": "merged_accuracy", "gain": "gain_mean_loss"}
        scores = {name: (confirmed["scores"].get(stem) or {}).get("mean") for name, stem in stems.items()}
    return BestMerge(
        digest=row["digest"],
        objective=objective,
        merge=words,
        **scores,
        noise=row[f"noise_{noise}"],
        knobs={k: row[k] for k in (*KNOBS, "augmentation", "augmentation_strength")},
    )


def compare_intervals(sweeps: Sequence[SweepSummary], objective: str) -> list[Overlap]:
    """Return the overlaps of all pairs of sweeps that share a noise and have an optimum."""
    pairs: list[Overlap] = []
    for one, other in combinations(sweeps, 2):
        a, b = one.regimes[objective], other.regimes[objective]
        if a.optimum is None or b.optimum is None or one.noise != other.noise:
            continue
        assert a.low is not None
        assert a.high is not None
        assert b.low is not None
        assert b.high is not None
        pairs.append(Overlap(one.name, other.name, a.low <= b.high and b.low <= a.high, b.optimum / a.optimum))
    return pairs


def describe_differences(sweeps: Sequence[SweepSummary], objective: str | None) -> list[str]:
    """Return sentences on differences between the sweeps that confound a comparison of their optima.

    Args:
        sweeps: The sweeps.
        objective: Objective that chose every best merge; None means each sweep used its own.
    """
    sentences: list[str] = []
    for what, value, why in _DIFFERENCES:
        values = {s.name: value(s) for s in sweeps if value(s)}
        if len(set(values.values())) > 1 and not (what == "objective" and objective):
            sentences.append(f"the sweeps differ in {what} ({_group_by_value(values)}): {why}")
    if unknown := [s.name for s in sweeps if s.trials and s.device_seconds is None]:
        sentences.append(f"the device time of {', '.join(unknown)} is unknown")
    for kind, text in (("synthetic", SYNTHETIC), ("imported", ELSEWHERE)):
        if names := [s.name for s in sweeps if kind in s.trainables]:
            sentences.append(f"{', '.join(names)}: {text}")
    return sentences


_DIFFERENCES: Sequence[tuple[str, Callable[[SweepSummary], str], str]] = (
    ("noise", lambda s: s.noise, "their optima cannot be compared; --noise NAME shows one definition for all"),
    (
        "objective",
        lambda s: s.objective,
        "each sweep chose its best merge by its own; --objective NAME uses one for all",
    ),
    (
        "split",
        lambda s: SPLIT_WORDS[s.split] if s.trials else "",
        "on test, optima and choices are not held out",
    ),
    ("task", lambda s: ", ".join(s.tasks), "losses and gains belong to different problems"),
    ("device", lambda s: ", ".join(s.devices), "device times belong to different machines"),
)


def _group_by_value(values: Mapping[str, str]) -> str:
    names: dict[str, list[str]] = {}
    for name, value in values.items():
        names.setdefault(value, []).append(name)
    return "; ".join(f"{', '.join(sweeps)}: {value}" for value, sweeps in names.items())
