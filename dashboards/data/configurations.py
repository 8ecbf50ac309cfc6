"""Records of configurations and counts, computed from tables; texts and figures use them."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from search_spaces._entries import find_entry
from sweeper.analysis.observations import find_ineligible
from sweeper.analysis.stages.designed import EXTEND, is_designed, mark_proxy
from sweeper.analysis.trial_counts import COUNTED, STAGE_COLUMNS, count_costs, count_trials
from sweeper.formatting import add_unit
from sweeper.search.objectives import OBJECTIVES
from trainables.noise import NOISE
from trainables.result import Outcome
from trainables.trial import IMPORTED

Row = Mapping[str, Any]
Array = NDArray[Any]
KNOBS = ("learning_rate", "batch_size", "momentum", "weight_decay", "augmentation_strength")
PARENTS = {"merged_loss": "loss", "merged_accuracy": "accuracy"}


def label_noise(noise: str) -> str:
    """Return the title of a noise axis, with formula and unit."""
    scale = NOISE[noise]
    return add_unit(f"noise {scale.formula}", scale.unit)


@dataclass(frozen=True)
class Sweep:
    """The settings of a sweep.

    Attributes:
        doubts: Sentences on missing or unknown settings.
        own_models: Whether the sweep merged the user's checkpoints, whose hyperparameters are unknown.
    """

    space: str
    trials: int | None
    sampler: str | None
    objective: str
    noise: str
    seed: int | None
    repeats: int
    doubts: tuple[str, ...] = ()
    own_models: bool = False

    @property
    def counted(self) -> str:
        """What the budget counts: trials, or configurations if these have repeats."""
        return "configuration" if self.repeats > 1 else "trial"

    @property
    def noise_label(self) -> str:
        """Title of the noise axis, with formula and unit."""
        return label_noise(self.noise)


@dataclass(frozen=True)
class Estimate:
    """Mean over the repeats of a configuration, standard error (None for one repeat), and number of repeats."""

    mean: float
    error: float | None
    n: int


@dataclass(frozen=True)
class ConfigPoint:
    """A configuration: knobs, noise, outcomes and measured values.

    Attributes:
        noise: Its noise; None unless positive, since log axes need that.
        outcome: `ok` if any repeat is, else the most frequent outcome.
        values: Column -> estimate over the `ok` repeats, without columns that have no finite value.
        chosen: Name, coefficient and window of the merge that validation chose, per `ok` repeat with a choice.
        can_win: Whether it may win, see `sweeper.analysis.observations.find_ineligible`.
        designed: Whether no result chose its settings, see `sweeper.analysis.stages.designed.is_designed`.
        proxy: Whether its trials had a share of the training budget.
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
    chosen: tuple[tuple[str, float | None, int | None], ...] = ()
    can_win: bool = True
    designed: bool = True
    proxy: bool = False

    @property
    def ok(self) -> bool:
        """Whether any repeat is `ok`."""
        return self.outcome == Outcome.OK


def to_finite(value: Any) -> float | None:
    """Return a number as float; None if it is missing or not finite."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _to_int(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _read_name(settings: Row, key: str, names: Iterable[str], default: str, doubts: list[str]) -> str:
    name = settings.get(key, default)
    if name in list(names):
        return str(name)
    doubts.append(f"The sweep has an unknown {key}, {name!r}; this page uses {default!r}.")
    return default


def read_settings(settings: Row | None, trials: pa.Table) -> Sweep:
    """Return a sweep's settings; missing ones come from the trials or a default."""
    given = settings or {}
    doubts = (
        [] if settings is not None else ["The run folder has no readable sweep.yaml, so budget and seed are unknown."]
    )
    first = trials.slice(0, 1).to_pylist()
    row = first[0] if first else {}
    return Sweep(
        space=str(given.get("space") or row.get("space") or "unnamed space"),
        trials=_to_int(given.get("trials")),
        sampler=str(s) if (s := given.get("sampler") or row.get("sampler")) else None,
        objective=_read_name(given, "objective", OBJECTIVES, "merged_loss", doubts),
        noise=_read_name(given, "noise", NOISE, "paper", doubts),
        seed=_to_int(given.get("seed", row.get("sweep_seed"))),
        repeats=_to_int(given.get("repeats")) or 1,
        doubts=tuple(doubts),
        own_models=bool(given.get("own_models")),
    )


def estimate(values: Iterable[Any]) -> Estimate | None:
    """Return mean and standard error of the finite values; None without one."""
    known = [v for v in map(to_finite, values) if v is not None]
    if not known:
        return None
    error = statistics.stdev(known) / math.sqrt(len(known)) if len(known) > 1 else None
    return Estimate(statistics.fmean(known), error, len(known))


def read_floats(table: pa.Table, column: str) -> Array:
    """Return a column of numbers as floats, with nan for missing values."""
    return np.asarray(table.column(column).to_numpy(), dtype=float)


@dataclass(frozen=True)
class _Groups:
    """Rows grouped by configuration.

    Attributes:
        of_row: Group per row.
        ok: Whether a row is `ok`.
        shown: Whether a row represents its group: an `ok` row, or any row of a group without one.
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
        """Return number, mean and standard error (nan for one value) per group, of the finite values in `rows`."""
        used = rows & np.isfinite(values)
        group, known, size = self.of_row[used], values[used], len(self.configs)
        n = np.bincount(group, minlength=size).astype(float)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = np.bincount(group, known, size) / n
            scatter = np.bincount(group, (known - mean[group]) ** 2, size)
            error = np.where(n > 1, np.sqrt(scatter / (n - 1) / n), np.nan)
        return n, mean, error

    def noises(self, levels: Array) -> Array:
        """Return the geometric mean of the positive noises per group; nan without one."""
        # repeats share a predicted noise, but each repeat measures its own
        with np.errstate(invalid="ignore", divide="ignore"):
            logs = np.where(levels > 0, np.log(levels), np.nan)
        n, mean, _ = self.moments(logs, self.shown)
        used = np.flatnonzero(self.shown & np.isfinite(logs))
        low, high = np.full(len(n), np.inf), np.full(len(n), -np.inf)
        np.minimum.at(low, self.of_row[used], levels[used])
        np.maximum.at(high, self.of_row[used], levels[used])
        with np.errstate(invalid="ignore"):
            # a value that all repeats share must not change by a logarithm
            return np.where(n == 0, np.nan, np.where(low == high, low, np.exp(mean)))


def average_noises(trials: pa.Table, noise: str) -> Array:
    """Return the noise per configuration in the order of `group_configurations`; nan unless positive."""
    if not trials.num_rows:
        return np.empty(0)
    return _Groups.of(trials).noises(read_floats(trials, f"noise_{noise}"))


def list_further_knobs(search: pa.Table) -> tuple[str, ...]:
    """Return the searched knobs beside `KNOBS`, in the order of their names.

    Args:
        search: The search table.
    """
    texts = set(search.column("params").to_pylist()) - {None}
    return tuple(sorted({name for text in texts for name in json.loads(text)} - {*KNOBS, "augmentation"}))


def _read_further(trials: pa.Table, names: Sequence[str]) -> dict[str, list[float]]:
    """Return the numbers of fields of the trials' specs, or of entries of fields; nan where there is none."""
    specs = [json.loads(text or "{}") for text in trials.column("spec").to_pylist()] if names else []
    found = {name: [_to_number(find_entry(spec, name)) for spec in specs] for name in names}
    return {name: values for name, values in found.items() if not all(map(math.isnan, values))}


def _to_number(value: Any) -> float:
    number = None if isinstance(value, bool) else to_finite(value)
    return math.nan if number is None else number


def list_knobs(points: Iterable[ConfigPoint]) -> tuple[str, ...]:
    """Return the knobs of configurations: those of `KNOBS` first, then the others."""
    return tuple(dict.fromkeys((*KNOBS, *(name for p in points for name in p.knobs))))


def group_configurations(
    trials: pa.Table,
    noise: str,
    columns: Sequence[str],
    lost: Collection[str] = frozenset(),
    further: Sequence[str] = (),
) -> list[ConfigPoint]:
    """Return one record per configuration, averaged over its repeats, in the order of the trials.

    Args:
        trials: The trials table.
        noise: Name of the noise definition.
        columns: Measured columns to average.
        lost: Configurations beyond a limit of the sweep.
        further: Knobs beside `KNOBS`, as of `list_further_knobs`; those that are no numbers are left out.
    """
    if not trials.num_rows:
        return []
    groups = _Groups.of(trials)
    size = range(len(groups.configs))
    values: list[dict[str, Estimate]] = [{} for _ in size]
    for column in dict.fromkeys(columns):
        for g, n, mean, error in zip(size, *groups.moments(read_floats(trials, column), groups.ok), strict=True):
            if n:
                values[g][column] = Estimate(float(mean), float(error) if n > 1 else None, int(n))
    choice = ["chosen_merge", "chosen_coefficient", "chosen_window"]
    rows = trials.select(["digest", "number", "outcome", "outcome_detail", *choice, "sampler", "stage"])
    records = list(zip(*(c.to_pylist() for c in rows.columns), strict=True))
    members: list[list[int]] = [[] for _ in size]
    for i, g in enumerate(groups.of_row.tolist()):
        members[g].append(i)
    ineligible = find_ineligible(trials.select(["config", "outcome"]).to_pylist()) | set(lost)
    short = mark_proxy(trials).tolist()
    knobs = {k: read_floats(trials, k).tolist() for k in KNOBS} | _read_further(trials, further)
    points: list[ConfigPoint] = []
    for g, scale in zip(size, groups.noises(read_floats(trials, f"noise_{noise}")).tolist(), strict=True):
        ok = [records[i] for i in members[g] if groups.ok[i]]
        first = next(i for i in members[g] if groups.shown[i])
        outcomes = Counter(records[i][2] for i in members[g])
        points.append(
            ConfigPoint(
                config=groups.configs[g],
                number=records[first][1],
                digests=tuple(records[i][0] for i in members[g] if groups.shown[i]),
                noise=scale if scale > 0 else None,
                knobs={k: v[first] for k, v in knobs.items() if math.isfinite(v[first])},
                outcome=str(Outcome.OK) if ok else outcomes.most_common(1)[0][0],
                outcomes=dict(outcomes),
                detail=str(records[first][3] or ""),
                values=values[g],
                chosen=tuple(r[4:7] for r in ok if r[4]),
                can_win=bool(ok) and groups.configs[g] not in ineligible and not short[first],
                designed=all(is_designed(*records[i][7:]) for i in members[g]),
                proxy=short[first],
            )
        )
    return points


def find_anchor(trials: pa.Table, column: str) -> float | None:
    """Return the value of `column` for a merge that equals its parents.

    It is the parents' median for a score, 1 for a normalised accuracy, and 0 for gains and barriers.
    """
    stem, _, split = column.rpartition("_")
    if "normalised" in stem:
        return 1.0
    if stem not in PARENTS:
        return 0.0
    sides = np.mean([read_floats(trials, f"{who}_{PARENTS[stem]}_{split}") for who in "ab"], axis=0)
    if "tasks" in trials.column("pair_kind").to_pylist():  # the mean over all children
        what = PARENTS[stem]
        gain = read_floats(trials, f"gain_mean_{what}_{split}") * (1 if what == "loss" else -1)
        sides = read_floats(trials, f"merged_{what}_{split}") + gain
    known = sides[np.asarray(trials.column("outcome").to_numpy() == Outcome.OK) & np.isfinite(sides)]
    return float(np.median(known)) if len(known) else None


@dataclass(frozen=True)
class Overview:
    """Counts and sums over the trials.

    Attributes:
        outcomes: Outcome -> trials, most frequent first.
        configs: Number of configurations with a finished trial.
        tried: Number of proposals with a finished trial, out of `budget`; a configuration may be proposed twice.
        added: Number of `configs` that `sweeper extend` added.
        device_seconds: Total device time; None if no trial records it.
        synthetic: Number of trials from a closed form.
        imported: Number of trials that were trained elsewhere.
        details: Outcome other than `ok` -> detail of its first trial.
        costs: Device time by stage and what was saved, in words.
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
    costs: str = ""

    @property
    def missing(self) -> int:
        """Number of proposals of the budget without a finished trial."""
        return max(0, (self.budget or 0) - self.tried)


def make_overview(trials: pa.Table, budget: int | None) -> Overview:
    """Return counts and sums over the trials."""
    keys = list(dict.fromkeys((*COUNTED, "trainable", "sampler", *STAGE_COLUMNS)))
    rows = trials.select([*keys, *({"run"} & set(trials.column_names))]).to_pylist()
    configs = {r["config"] for r in rows}
    added = configs - {r["config"] for r in rows if r["sampler"] != EXTEND}
    places = {(r.get("run"), r["number"]) for r in rows if r["number"] is not None}
    counts = count_trials(rows)
    return Overview(
        trials=len(rows),
        configs=len(configs),
        tried=len(places) or len(configs) - len(added),
        budget=budget,
        outcomes=counts.outcomes,
        device_seconds=counts.device_seconds,
        synthetic=sum(r["trainable"] == "synthetic" for r in rows),
        imported=sum(r["trainable"] == IMPORTED for r in rows),
        added=len(added),
        details={outcome: detail for outcome, detail in counts.first_details.items() if detail},
        costs=count_costs(rows).describe(),
    )
