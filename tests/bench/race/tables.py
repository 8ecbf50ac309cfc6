"""Tables of trained pairs as problems: an emulator of the objective, of its seed noise and of collapses.

The emulator knows the knobs only, no noise scale, so that it favours no sampler: extremely randomised trees or a
Gaussian process of scikit-learn. The seed noise differs from point to point. A score is larger if it is better.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from scipy.special import ndtr
from sklearn.ensemble import ExtraTreesClassifier, ExtraTreesRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from search_spaces import digits_cnn
from sweeper.search.k_aug import KAug

from .problems import CAP, FLOOR, PAIRS, Params, Space

RUNGS = PAIRS.parent / "digits_rungs.parquet"
LABEL = PAIRS.parent / "label_noise_pairs.parquet"
DIGITS: Space = dict(digits_cnn.SPACE.knobs)
_WORST_GAIN = -0.2  # a collapsed pair's gain in the mean; the sampler is told the cap, as in a sweep
_FUZZ = 0.1  # width of the cliff in shares of collapsed pairs, so that blurred trees still have one
_DRAWS, _POLISH = 8000, (0.1, 0.05, 0.02)


@dataclass(frozen=True)
class Replay:
    """A problem with seed noise of its own at every point.

    Attributes:
        space: Parameter -> distribution.
        mean: Coordinates, shape (n, d) -> true score, shape (n,).
        sd: Coordinates -> sd of the seed noise, shape (n,).
        collapse: Coordinates -> share of collapsed pairs, shape (n,); None if none collapses.
        fine: Coordinates -> mean score of the pairs that do not collapse, shape (n,); None is `mean`.
        penalty: Score that a sweep tells for a collapsed pair.
        k_aug: Parameters -> factor of augmentation on the noise; None if no pair was probed.
        best: Largest true score that random search with local polish finds.
    """

    space: Space
    mean: Callable[[np.ndarray], np.ndarray]
    sd: Callable[[np.ndarray], np.ndarray]
    collapse: Callable[[np.ndarray], np.ndarray] | None = None
    fine: Callable[[np.ndarray], np.ndarray] | None = None
    penalty: float = -CAP
    k_aug: KAug | None = None
    best: float = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(0)
        unit = rng.random((_DRAWS, len(self.space)))
        values = self.mean(unit)
        for step in _POLISH:
            top = unit[np.argsort(-values)[:20]]
            near = np.clip(np.repeat(top, 60, axis=0) + step * rng.standard_normal((1200, len(self.space))), 0, 1)
            unit, values = np.concatenate([top, near]), np.concatenate([np.sort(-values)[:20] * -1, self.mean(near)])
        object.__setattr__(self, "best", float(values.max()))

    def true(self, params: Params) -> float:
        """Return the score's mean over seeds."""
        return float(self.mean(units(self.space, [params]))[0])

    def observe(self, params: Params, rng: np.random.Generator) -> float:
        """Return the score of one pair."""
        unit = units(self.space, [params])
        shift, falls = rng.standard_normal(), rng.random()
        if self.collapse is not None and falls < float(self.collapse(unit)[0]):
            return self.penalty
        return float((self.fine or self.mean)(unit)[0]) + float(self.sd(unit)[0]) * shift


def units(space: Space, rows: Sequence[Params]) -> np.ndarray:
    """Return the coordinates of parameters, shape (n, d): log scale for log knobs, -ln(1 - mu) for momentum."""
    return np.array([[_unit(d, row[name]) for name, d in space.items()] for row in rows], dtype=float)


def _unit(d: Any, value: Any) -> float:
    if isinstance(d, CategoricalDistribution):  # momentum
        scale = [-math.log1p(-float(c)) for c in d.choices]  # type: ignore[arg-type]
        return (-math.log1p(-value) - min(scale)) / (max(scale) - min(scale))
    low, high, x = (math.log(v) if d.log else v for v in (d.low, d.high, value))
    return (x - low) / (high - low)


@dataclass(frozen=True)
class Table:
    """Scores of trained pairs: coordinates, shape (n, d), scores, shape (n,), and which of them collapsed."""

    space: Space
    unit: np.ndarray
    score: np.ndarray
    collapsed: np.ndarray


def trees(table: Table) -> Replay:
    """Return the replay by extremely randomised trees."""
    fine = ~table.collapsed
    model = ExtraTreesRegressor(150, min_samples_leaf=2, bootstrap=True, oob_score=True, random_state=0, n_jobs=1)
    model.fit(table.unit[fine], table.score[fine])
    return _replay(table, model.predict, np.asarray(model.oob_prediction_))


def smooth(table: Table) -> Replay:
    """Return the replay by a Gaussian process over the knobs, clipped to the observed range."""
    fine = ~table.collapsed
    x, y = table.unit[fine], table.score[fine]
    kernel = ConstantKernel(1.0, (0.1, 100)) * Matern([0.5] * x.shape[1], (0.05, 20), nu=2.5)  # pyright: ignore[reportArgumentType]
    model = GaussianProcessRegressor(kernel + WhiteKernel(0.1, (1e-3, 1.0)), normalize_y=True).fit(x, y)
    # leave-one-out residuals, Rasmussen & Williams 2006, eq. 5.12
    errors = model.alpha_ / np.diag(np.linalg.inv(model.L_ @ model.L_.T)) * y.std()
    return _replay(table, lambda unit: np.clip(model.predict(unit), y.min(), y.max()), y - errors)


def _replay(table: Table, fine_mean: Callable[[np.ndarray], np.ndarray], left_out: np.ndarray) -> Replay:
    fine = ~table.collapsed
    errors = np.abs(table.score[fine] - left_out)
    spread = ExtraTreesRegressor(50, min_samples_leaf=10, random_state=0, n_jobs=1).fit(table.unit[fine], errors)
    sd = lambda unit: spread.predict(unit) * math.sqrt(math.pi / 2)  # noqa: E731  mean |e| of a normal is .8 sd
    if fine.all():
        return Replay(table.space, fine_mean, sd)
    falls = ExtraTreesClassifier(100, min_samples_leaf=2, random_state=0, n_jobs=1).fit(table.unit, table.collapsed)

    def share(unit: np.ndarray) -> np.ndarray:
        return ndtr((falls.predict_proba(unit)[:, 1] - 0.5) / _FUZZ)

    def mean(unit: np.ndarray) -> np.ndarray:
        p = share(unit)
        return (1 - p) * fine_mean(unit) + p * _WORST_GAIN

    return Replay(table.space, mean, sd, share, fine_mean)


def gains(rows: Sequence[Mapping[str, Any]], space: Space = DIGITS, column: str = "gain_mean_loss_val") -> Table:
    """Return the table of gains of a trials table's rows."""
    raw = np.array([_finite(r[column]) if r["outcome"] == "ok" else -CAP for r in rows])
    return Table(space, units(space, rows), np.maximum(raw, _WORST_GAIN), raw <= _WORST_GAIN)


def losses(rows: Sequence[Mapping[str, Any]], space: Space = DIGITS, column: str = "merged_loss_val") -> Table:
    """Return the table of minus log merged losses of a trials table's rows."""
    raw = [r[column] if r["outcome"] == "ok" and _finite(r[column]) > 0 else CAP for r in rows]
    return Table(space, units(space, rows), -np.log(np.minimum(raw, CAP)), np.zeros(len(rows), dtype=bool))


def _finite(value: float | None) -> float:
    return -CAP if value is None or not math.isfinite(value) else float(value)


@cache
def _rungs(space: str) -> tuple[Mapping[str, Any], ...]:
    return tuple(r for r in pq.read_table(RUNGS).to_pylist() if r["space"] == space)


@cache
def _label() -> tuple[Mapping[str, Any], ...]:
    return tuple(pq.read_table(LABEL).to_pylist())


def _label_k_aug() -> KAug:
    probed = {r["augmentation_strength"]: r["k_aug"] for r in _label()}
    return KAug({"none": probed}, "none")


@cache
def _pairs() -> tuple[Mapping[str, Any], ...]:
    out: list[dict[str, Any]] = []
    for r in pq.read_table(PAIRS).to_pylist():
        known = all(r[k] is not None and math.isfinite(r[k]) for k in ("loss_a", "loss_b", "loss_merged"))
        fine = known and min(r["acc_a"], r["acc_b"]) >= FLOOR
        out.append({
            "learning_rate": r["lr"], "batch_size": int(r["batch_size"]), "momentum": r["momentum"],
            "weight_decay": max(r["weight_decay"], 1e-4), "outcome": "ok" if fine else "diverged",
            "merged_loss_val": r["loss_merged"] if known else None,
            "gain_mean_loss_val": (r["loss_a"] + r["loss_b"]) / 2 - r["loss_merged"] if known else None,
        })  # fmt: skip
    return tuple(out)


def _pairs_space() -> Space:
    rates = [r["learning_rate"] for r in _pairs()]
    return {
        "learning_rate": FloatDistribution(min(rates), max(rates), log=True),
        "weight_decay": FloatDistribution(1e-4, 1e-2, log=True),
        "batch_size": IntDistribution(8, 128, log=True),
        "momentum": CategoricalDistribution((0.0, 0.9)),
    }


# ---- closed forms over the knobs of digits_cnn ----


def _formula(kind: str, seed: int) -> Replay:
    """Return a closed form: `ridge`, `cliff`, `basins` or `knobs`; every seed draws another member."""
    rng = np.random.default_rng([seed, 815])
    best, width = rng.uniform(math.log(4e-3), math.log(3e-2)), rng.uniform(0.6, 1.2)
    tilt, augmentation = 0.15 * rng.standard_normal(2), rng.uniform(0.5, 2.5)
    centre, weight = rng.uniform(0.2, 0.8, 5), 0.6 * rng.dirichlet(np.ones(5))
    low, high = (np.log([DIGITS[k].low, DIGITS[k].high]) for k in ("learning_rate", "batch_size"))  # type: ignore[attr-defined]
    ridge_batch = rng.uniform(0.5, 1.0)

    def axis(unit: np.ndarray) -> np.ndarray:
        rate = low[0] + unit[:, 0] * (low[1] - low[0])
        batch = high[0] + unit[:, 1] * (high[1] - high[0])
        return rate - (1 + tilt[0]) * batch + (1 + tilt[1]) * unit[:, 2] * math.log(20) + augmentation * unit[:, 4]

    def share(unit: np.ndarray) -> np.ndarray:  # of the largest gain
        bowl = np.exp(-(((unit - centre) ** 2) @ weight) * 4)
        if kind == "knobs":
            return np.exp(-(((unit - centre) ** 2) @ (weight + 0.3)) * 4)
        z = (axis(unit) - best) / width
        if kind == "cliff":
            return np.exp(0.5 * np.minimum(z, 0.0)) * bowl
        hump = np.exp(-0.5 * z * z)
        if kind == "ridge":
            return hump * bowl
        near = np.exp(-0.5 * ((unit[:, 1] - ridge_batch) / 0.2) ** 2)
        second = 0.55 * np.exp(-0.5 * ((axis(unit) - best + 1.0) / 1.5) ** 2 - 0.5 * (unit[:, 1] / 0.3) ** 2)
        return np.maximum(hump * near, second)

    def falls(unit: np.ndarray) -> np.ndarray:
        edge = {"cliff": 0.3, "knobs": 50.0}.get(kind, 1.8)
        return ndtr(4 * ((axis(unit) - best) / width - edge))

    def fine(unit: np.ndarray) -> np.ndarray:
        return 0.09 * share(unit)

    def mean(unit: np.ndarray) -> np.ndarray:
        p = falls(unit)
        return fine(unit) * (1 - p) + _WORST_GAIN * p

    return Replay(DIGITS, mean, lambda unit: 0.003 + 0.015 * share(unit), falls, fine)


FORMULAS = ("ridge", "cliff", "basins", "knobs")


@cache
def _emulated(name: str, folder: str | None) -> Replay:
    way, _, table = name.partition(":")
    if table.startswith("rungs"):
        kind, column = ("digits_label_noise", gains) if table == "rungs_gain" else ("digits_cnn", losses)
        rows, space = list(_rungs(kind)), dict(DIGITS)
        space["batch_size"] = IntDistribution(16, 128, log=True)
        source = column(rows, space)
    elif table.startswith("pairs"):
        source = (gains if table == "pairs_gain" else losses)(_pairs(), _pairs_space())
    elif table.startswith("label"):
        source = (gains if table == "label_gain" else losses)(_label(), DIGITS)
        return replace((trees if way == "trees" else smooth)(source), k_aug=_label_k_aug())
    else:
        if folder is None:
            raise ValueError(f"{name} needs --table: a run folder or a Parquet file with trials of digits_label_noise")
        from sweeper.storage.tables import read_trials

        trials = pq.read_table(folder) if Path(folder).is_file() else read_trials(folder)
        rows = [r for r in trials.to_pylist() if r["outcome"] != "failed"]
        source = (gains if table == "table_gain" else losses)(rows, DIGITS)
    return (trees if way == "trees" else smooth)(source)


def replay(name: str, seed: int, folder: str | None = None) -> Replay:
    """Return a problem by name: one of `FORMULAS`, or `<trees|smooth>:<table>_<gain|loss>`.

    Tables are `pairs` (1,170 pairs), `rungs` (246 pairs), `label` (2,501 pairs of digits_label_noise) and `table` (the
    one in `folder`).
    """
    return _formula(name, seed) if name in FORMULAS else _emulated(name, folder)
