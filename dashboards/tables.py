"""Tables in, small records out: what the page says and draws, with no drawing in it."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from sweeper.objective import OBJECTIVES
from trainables.noise import NOISE
from trainables.result import NEVER_WINS, Outcome

Row = Mapping[str, Any]
KNOBS = ("learning_rate", "batch_size", "momentum", "weight_decay", "augmentation_strength")
FITTED = ("gain_mean", "merged_loss")
PARENTS = {
    "merged_loss_val": ("a_loss_val", "b_loss_val"),
    "merged_accuracy_val": ("a_accuracy_val", "b_accuracy_val"),
}


@dataclass(frozen=True)
class Sweep:
    """What was asked for.

    `doubts` are sentences on settings that could not be understood; `own` says that a user's own checkpoints were
    merged, of which no hyperparameter is known.
    """

    space: str
    trials: int | None
    sampler: str | None
    objective: str
    noise: str
    seed: int | None
    repeats: int
    doubts: tuple[str, ...] = ()
    own: bool = False

    @property
    def noise_label(self) -> str:
        """The noise with its formula and unit, as an axis says it."""
        scale = NOISE[self.noise]
        return f"noise {scale.formula} [{scale.unit}]"


@dataclass(frozen=True)
class Estimate:
    """Mean over the repeats of a configuration, its standard error (None for one repeat), and their number."""

    mean: float
    error: float | None
    n: int


@dataclass(frozen=True)
class ConfigPoint:
    """One configuration: its knobs, its noise, how it ended and what was measured.

    Attributes:
        noise: Noise of the sweep's definition; None where it is not positive and so has no place on a log axis.
        outcome: `ok` where any repeat is, else the commonest other outcome.
        values: Column -> estimate over the repeats that are `ok`; a column without a finite value is missing.
        chosen: Name and coefficient of the merge chosen on validation, of each repeat that is `ok` and has one.
        lost: Whether it broke a limit of the sweep on memory or step time.
    """

    config: str
    number: int | None
    digests: tuple[str, ...]
    noise: float | None
    knobs: Mapping[str, float]
    outcome: str
    outcomes: Mapping[str, int]
    detail: str
    values: Mapping[str, Estimate]
    chosen: tuple[tuple[str, float | None], ...] = ()
    lost: bool = False

    @property
    def ok(self) -> bool:
        """Whether any repeat is `ok`."""
        return self.outcome == Outcome.OK

    @property
    def can_win(self) -> bool:
        """Whether a repeat is `ok`, no other is of `NEVER_WINS`, and no limit was broken."""
        return self.ok and not self.lost and NEVER_WINS.isdisjoint(self.outcomes)


def finite(value: Any) -> float | None:
    """Return a number as float, None where it is missing or not finite."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _known(settings: Row, key: str, names: Iterable[str], default: str, doubts: list[str]) -> str:
    name = settings.get(key, default)
    if name in list(names):
        return str(name)
    doubts.append(f"The sweep names the {key} {name!r}, which is not known here; the page uses {default!r}.")
    return default


def sweep_of(settings: Row | None, trials: pa.Table) -> Sweep:
    """Read what the page needs from a sweep's settings; what they lack comes from the trials or a default."""
    given = settings or {}
    doubts = [] if settings is not None else ["The run folder has no readable sweep.yaml: budget and seed are unknown."]
    first = trials.slice(0, 1).to_pylist()
    row = first[0] if first else {}
    return Sweep(
        space=str(given.get("space") or row.get("space") or "unnamed space"),
        trials=_whole(given.get("trials")),
        sampler=str(s) if (s := given.get("sampler") or row.get("sampler")) else None,
        objective=_known(given, "objective", OBJECTIVES, "merged_loss", doubts),
        noise=_known(given, "noise", NOISE, "paper", doubts),
        seed=_whole(given.get("seed", row.get("sweep_seed"))),
        repeats=_whole(given.get("repeats")) or 1,
        doubts=tuple(doubts),
        own=bool(given.get("own_models")),
    )


def estimate(values: Iterable[Any]) -> Estimate | None:
    """Return mean and standard error of the finite values, None without any."""
    known = [v for v in map(finite, values) if v is not None]
    if not known:
        return None
    error = statistics.stdev(known) / math.sqrt(len(known)) if len(known) > 1 else None
    return Estimate(statistics.fmean(known), error, len(known))


def _point(config: str, rows: Sequence[Row], noise: str, columns: Sequence[str]) -> ConfigPoint:
    outcomes = Counter(str(r["outcome"]) for r in rows)
    good = [r for r in rows if r["outcome"] == Outcome.OK]
    shown = good or rows
    # repeats share a predicted noise, but each has its own measured one
    scales = [s for r in shown if (s := finite(r[f"noise_{noise}"])) is not None and s > 0]
    estimates = {c: estimate(r[c] for r in good) for c in columns}
    return ConfigPoint(
        config=config,
        number=shown[0]["number"],
        digests=tuple(r["digest"] for r in shown),
        noise=statistics.geometric_mean(scales) if len(set(scales)) > 1 else next(iter(scales), None),
        knobs={k: v for k in KNOBS if (v := finite(shown[0][k])) is not None},
        outcome=str(Outcome.OK) if good else outcomes.most_common(1)[0][0],
        outcomes=dict(outcomes),
        detail=str(shown[0]["outcome_detail"] or ""),
        values={c: e for c, e in estimates.items() if e is not None},
        chosen=tuple((r["chosen_merge"], r["chosen_coefficient"]) for r in good if r["chosen_merge"]),
    )


def config_points(
    trials: pa.Table, noise: str, columns: Sequence[str], lost: Collection[str] = frozenset()
) -> list[ConfigPoint]:
    """Return one record per configuration, repeats averaged, in the order of the trials.

    Args:
        trials: The trials table.
        noise: Name of the noise definition.
        columns: Measured columns to average.
        lost: Configurations that broke a limit of the sweep.
    """
    needed = ["config", "digest", "number", "outcome", "outcome_detail", f"noise_{noise}", *KNOBS]
    needed += ["chosen_merge", "chosen_coefficient"]
    groups: dict[str, list[Row]] = {}
    for row in trials.select([*needed, *(c for c in columns if c not in needed)]).to_pylist():
        groups.setdefault(row["config"], []).append(row)
    points = [_point(config, rows, noise, columns) for config, rows in groups.items()]
    return [replace(p, lost=True) if p.config in lost else p for p in points]


def anchor(trials: pa.Table, column: str) -> float | None:
    """Return the value of `column` at which merging changes nothing: the parents' median, 0 for gains and barriers."""
    if column not in PARENTS:
        return 0.0
    sides = trials.select(["outcome", *PARENTS[column]]).to_pylist()
    known = [e for r in sides if r.pop("outcome") == Outcome.OK and (e := estimate(r.values())) and e.n == 2]
    return statistics.median(e.mean for e in known) if known else None


def winners(points: Iterable[ConfigPoint], column: str, maximize: bool) -> list[ConfigPoint]:
    """Return the configurations that can win and have a value of `column`, best first."""
    scored = [p for p in points if p.can_win and column in p.values]
    return sorted(scored, key=lambda p: p.values[column].mean, reverse=maximize)


@dataclass(frozen=True)
class Overview:
    """Counts and sums over the trials.

    Attributes:
        outcomes: Outcome -> trials, commonest first.
        configs: Configurations with at least one finished trial; `budget` is the number asked for.
        device_seconds: Time on the devices, all trials.
        synthetic: Trials whose numbers come from a closed form.
    """

    trials: int
    configs: int
    budget: int | None
    outcomes: Mapping[str, int]
    device_seconds: float
    synthetic: int
    details: Mapping[str, str] = field(default_factory=lambda: {})

    @property
    def missing(self) -> int:
        """Configurations of the budget that have no finished trial yet."""
        return max(0, (self.budget or 0) - self.configs)


def overview(trials: pa.Table, budget: int | None) -> Overview:
    """Count the trials; `details` holds the first sentence of every outcome other than `ok`."""
    keys = ["config", "outcome", "outcome_detail", "device_seconds", "trainable"]
    rows = trials.select(keys).to_pylist()
    details: dict[str, str] = {}
    for row in rows:
        if row["outcome"] != Outcome.OK and row["outcome_detail"]:
            details.setdefault(row["outcome"], row["outcome_detail"])
    return Overview(
        trials=len(rows),
        configs=len({r["config"] for r in rows}),
        budget=budget,
        outcomes=dict(Counter(str(r["outcome"]) for r in rows).most_common()),
        device_seconds=math.fsum(finite(r["device_seconds"]) or 0.0 for r in rows),
        synthetic=sum(r["trainable"] == "synthetic" for r in rows),
        details=details,
    )
