from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest

from sweeper.analysis.curve.merge_methods import fit_merge_methods
from sweeper.storage.schema import SCHEMAS
from tests.support.trial_rows import table, trial

LEVELS = np.exp(np.linspace(math.log(1e-3), math.log(1e-1), 24))


def _merges(best: dict[str, float], scale: float = 0.02) -> tuple[pa.Table, pa.Table]:
    """Trials over noise, and merges whose test loss is a parabola of log noise around the best noise of a method."""
    rng, trials, rows = np.random.default_rng(0), [], []
    for i, noise in enumerate(LEVELS):
        row = trial(f"c{i:02d}", 0.0, noise_paper=float(noise), sampler="qmc")
        trials.append(row)
        for method, place in best.items():
            for coefficient, worse in ((0.0, 5.0), (0.3, 0.1), (0.5, 0.0), (1.0, 5.0)):
                loss = 0.3 + scale * (math.log(noise) - math.log(place)) ** 2 + worse + 0.002 * rng.standard_normal()
                rows.append({"digest": row["digest"], "config": row["config"], "method": method,
                             "coefficient": coefficient, "loss_val": loss, "loss_test": loss + 0.01})  # fmt: skip
    schema = SCHEMAS["merges"]
    return table(trials), pa.Table.from_pylist([{n: r.get(n) for n in schema.names} for r in rows], schema)


def test_every_method_has_its_own_best_noise() -> None:
    trials, merges = _merges({"linear": 5e-3, "ties": 2e-2})
    curves = {c.method: c for c in fit_merge_methods(trials, merges, "paper")}
    assert curves["linear"].optimum == pytest.approx(5e-3, rel=0.3)
    assert curves["ties"].optimum == pytest.approx(2e-2, rel=0.3)
    for curve in curves.values():
        assert curve.interior
        assert curve.low is not None
        assert curve.high is not None
        assert curve.low <= curve.optimum <= curve.high
        assert curve.loss == pytest.approx(0.31, abs=0.01)  # on test, at the coefficient that validation chooses
        assert curve.configurations == len(LEVELS)


def test_the_last_column_is_at_the_worst_noise_of_the_linear_merge() -> None:
    trials, merges = _merges({"linear": 1e-3, "ties": 1e-1})
    curves = {c.method: c for c in fit_merge_methods(trials, merges, "paper")}
    assert curves["linear"].elsewhere is not None
    assert curves["ties"].elsewhere is not None
    assert curves["linear"].elsewhere > curves["ties"].elsewhere + 0.1


def test_ends_of_a_merge_never_count() -> None:
    trials, merges = _merges({"linear": 5e-3})
    better = pa.array([0.0 if c in (0.0, 1.0) else v for c, v in zip(
        merges["coefficient"].to_pylist(), merges["loss_val"].to_pylist(), strict=True)])  # fmt: skip
    merges = merges.set_column(merges.column_names.index("loss_val"), merges.schema.field("loss_val"), better)
    (curve,) = fit_merge_methods(trials, merges, "paper")
    assert curve.loss == pytest.approx(0.31, abs=0.01)


def test_too_few_configurations_say_so() -> None:
    trials, merges = _merges({"linear": 5e-3})
    (curve,) = fit_merge_methods(trials.slice(0, 3), merges, "paper")
    assert (curve.optimum, curve.loss, curve.elsewhere) == (None, None, None)
    assert "the fit needs 6" in curve.message
