"""Tables in, small records out: what the page says and draws, with no drawing in it."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sweeper.analysis.observations import find_ineligible
from sweeper.analysis.regime import EXTEND
from sweeper.search.objectives import OBJECTIVES
from trainables.noise import NOISE
from trainables.result import Outcome
from trainables.trial import IMPORTED

Row = Mapping[str, Any]
Array = NDArray[Any]
KNOBS = ("learning_rate", "batch_size", "momentum", "weight_decay", "augmentation_strength")
PARENTS = {"merged_loss": "loss", "merged_accuracy": "accuracy"}


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
        can_win: Whether it may win, see `sweeper.analysis.observations.find_ineligible`.
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
    can_win: bool = True

    @property
    def ok(self) -> bool:
        """Whether any repeat is `ok`."""
        return self.outcome == Outcome.OK


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


def floats(table: pa.Table, column: str) -> Array:
    """Return a column of numbers as floats, nan where it is empty."""
    return np.asarray(table.column(column).to_numpy(), dtype=float)


@dataclass(frozen=True)
class _Groups:
    """Rows by configuration: the group of each row, which rows are `ok`, and which ones stand for their group.

    A group is shown by its `ok` rows, by all of them where none is.
    """

    configs: list[str]
    of_row: Array
    ok: Array
    shown: Array

    @classmethod
    def of(cls, trials: pa.Table) -> _Groups:
        encoded = trials.column("config").combine_chunks().dictionary_encode()
        group = encoded.indices.to_numpy()
        ok = np.asarray(trials.column("outcome").to_numpy() == Outcome.OK)
        count = len(encoded.dictionary)
        return cls(encoded.dictionary.to_pylist(), group, ok, ok | (np.bincount(group, ok, count) == 0)[group])

    def moments(self, values: Array, rows: Array) -> tuple[Array, Array, Array]:
        """Return number, mean and standard error (nan for one) of the finite values among the `rows`, by group."""
        used = rows & np.isfinite(values)
        group, found, size = self.of_row[used], values[used], len(self.configs)
        n = np.bincount(group, minlength=size).astype(float)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.bincount(group, found, size) / n
            scatter = np.bincount(group, (found - mean[group]) ** 2, size)
            error = np.where(n > 1, np.sqrt(scatter / (n - 1) / n), np.nan)
        return n, mean, error

    def noises(self, levels: Array) -> Array:
        """Return the geometric mean of the positive noises, by group; nan without any."""
        # repeats share a predicted noise, but each has its own measured one
        with np.errstate(invalid="ignore", divide="ignore"):
            logs = np.where(levels > 0, np.log(levels), np.nan)
        n, mean, _ = self.moments(logs, self.shown)
        used = np.flatnonzero(self.shown & np.isfinite(logs))
        low, high = np.full(len(n), np.inf), np.full(len(n), -np.inf)
        np.minimum.at(low, self.of_row[used], levels[used])
        np.maximum.at(high, self.of_row[used], levels[used])
        with np.errstate(invalid="ignore"):
            # what is the same in all repeats must not pass through a logarithm
            return np.where(n == 0, np.nan, np.where(low == high, low, np.exp(mean)))


def config_noises(trials: pa.Table, noise: str) -> Array:
    """Return the noise of each configuration, nan without a positive one, in the order of `config_points`."""
    if not trials.num_rows:
        return np.empty(0)
    return _Groups.of(trials).noises(floats(trials, f"noise_{noise}"))


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
    if not trials.num_rows:
        return []
    groups = _Groups.of(trials)
    size = range(len(groups.configs))
    values: list[dict[str, Estimate]] = [{} for _ in size]
    for column in dict.fromkeys(columns):
        for g, n, mean, error in zip(size, *groups.moments(floats(trials, column), groups.ok), strict=True):
            if n:
                values[g][column] = Estimate(float(mean), float(error) if n > 1 else None, int(n))
    rows = trials.select(["digest", "number", "outcome", "outcome_detail", "chosen_merge", "chosen_coefficient"])
    told = list(zip(*(c.to_pylist() for c in rows.columns), strict=True))
    members: list[list[int]] = [[] for _ in size]
    for i, g in enumerate(groups.of_row.tolist()):
        members[g].append(i)
    ineligible = find_ineligible(trials.select(["config", "outcome"]).to_pylist()) | set(lost)
    knobs = {k: floats(trials, k).tolist() for k in KNOBS}
    points: list[ConfigPoint] = []
    for g, scale in zip(size, groups.noises(floats(trials, f"noise_{noise}")).tolist(), strict=True):
        good = [told[i] for i in members[g] if groups.ok[i]]
        first = next(i for i in members[g] if groups.shown[i])
        outcomes = Counter(told[i][2] for i in members[g])
        points.append(
            ConfigPoint(
                config=groups.configs[g],
                number=told[first][1],
                digests=tuple(told[i][0] for i in members[g] if groups.shown[i]),
                noise=scale if scale > 0 else None,
                knobs={k: v[first] for k, v in knobs.items() if math.isfinite(v[first])},
                outcome=str(Outcome.OK) if good else outcomes.most_common(1)[0][0],
                outcomes=dict(outcomes),
                detail=str(told[first][3] or ""),
                values=values[g],
                chosen=tuple(r[4:] for r in good if r[4]),
                can_win=bool(good) and groups.configs[g] not in ineligible,
            )
        )
    return points


def anchor(trials: pa.Table, column: str) -> float | None:
    """Return the value of `column` at which merging changes nothing.

    The parents' median for a score of the merge, 1 for a normalised accuracy, 0 for gains and barriers.
    """
    stem, _, split = column.rpartition("_")
    if "normalised" in stem:
        return 1.0
    if stem not in PARENTS:
        return 0.0
    sides = np.mean([floats(trials, f"{who}_{PARENTS[stem]}_{split}") for who in "ab"], axis=0)
    known = sides[np.asarray(trials.column("outcome").to_numpy() == Outcome.OK) & np.isfinite(sides)]
    return float(np.median(known)) if len(known) else None


@dataclass(frozen=True)
class Overview:
    """Counts and sums over the trials.

    Attributes:
        outcomes: Outcome -> trials, commonest first.
        configs: Configurations with at least one finished trial.
        tried: How many of the `budget` configurations asked for have one; a search that tries one again counts twice.
        added: Those of `configs` that `sweeper extend` added to the budget's.
        device_seconds: Time on the devices, all trials; None where no trial says it.
        synthetic: Trials whose numbers come from a closed form; `imported`, those that were trained elsewhere.
    """

    trials: int
    configs: int
    tried: int
    budget: int | None
    outcomes: Mapping[str, int]
    device_seconds: float | None
    synthetic: int
    imported: int = 0
    added: int = 0
    details: Mapping[str, str] = field(default_factory=lambda: {})

    @property
    def missing(self) -> int:
        """Configurations of the budget that have no finished trial yet."""
        return max(0, (self.budget or 0) - self.tried)


def overview(trials: pa.Table, budget: int | None) -> Overview:
    """Count the trials; `details` holds the first sentence of every outcome other than `ok`."""
    keys = ["config", "number", "outcome", "outcome_detail", "device_seconds", "trainable", "sampler"]
    rows = trials.select([*keys, *({"run"} & set(trials.column_names))]).to_pylist()
    configs = {r["config"] for r in rows}
    added = configs - {r["config"] for r in rows if r["sampler"] != EXTEND}
    places = {(r.get("run"), r["number"]) for r in rows if r["number"] is not None}
    times = [t for r in rows if (t := finite(r["device_seconds"])) is not None]
    details: dict[str, str] = {}
    for row in rows:
        if row["outcome"] != Outcome.OK and row["outcome_detail"]:
            details.setdefault(row["outcome"], row["outcome_detail"])
    return Overview(
        trials=len(rows),
        configs=len(configs),
        tried=len(places) or len(configs) - len(added),
        budget=budget,
        outcomes=dict(Counter(str(r["outcome"]) for r in rows).most_common()),
        device_seconds=math.fsum(times) if times or not rows else None,
        synthetic=sum(r["trainable"] == "synthetic" for r in rows),
        imported=sum(r["trainable"] == IMPORTED for r in rows),
        added=len(added),
        details=details,
    )
