"""What windows of checkpoints change, by hand."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from scipy import stats

from sweeper.analysis.curve.windows import compare_windows, select_last_weights
from sweeper.storage.schema import SCHEMAS
from tests.support.trial_rows import table, trial


def _tables(changes: list[float], sizes: tuple[int | None, ...] = (None, 4)) -> tuple[pa.Table, pa.Table]:
    trials, rows = [], []
    for i, change in enumerate(changes):
        trials.append(trial(f"c{i}", 0.0))
        for window in sizes:
            shift = change * (window or 0)
            for coefficient, loss in ((0.0, 1.0 + i), (0.5, 0.5 + i + shift), (1.0, 2.0 + i + 3 * shift)):
                rows.append({"digest": trials[-1]["digest"], "config": f"c{i}", "method": "linear", "window": window,
                             "coefficient": coefficient, "loss_test": loss})  # fmt: skip
    schema = SCHEMAS["merges"]
    return table(trials), pa.Table.from_pylist([{n: r.get(n) for n in schema.names} for r in rows], schema)


def test_changes_are_paired_by_trial() -> None:
    changes = [-0.01, -0.02, -0.04]
    last, four = compare_windows(*_tables(changes))
    assert (last.window, last.trials, last.parents, last.merged) == (1, 3, 2.5, 1.5)
    assert last.parents_change is last.merged_change is None
    gaps = 4 * np.array(changes)
    assert four.merged == pytest.approx(1.5 + gaps.mean())
    assert four.parents == pytest.approx(2.5 + 1.5 * gaps.mean())
    assert four.merged_change is not None
    low, high = stats.t.interval(0.9, 2, gaps.mean(), stats.sem(gaps))
    assert (four.merged_change.mean, four.merged_change.low, four.merged_change.high) == pytest.approx(
        (gaps.mean(), low, high)
    )


def test_one_trial_has_no_interval_and_a_sweep_without_windows_has_no_effect() -> None:
    _, four = compare_windows(*_tables([0.1]))
    assert four.merged_change is not None
    assert (four.merged_change.mean, four.merged_change.low) == (pytest.approx(0.4), None)
    assert compare_windows(*_tables([0.1], (None,))) == ()


def test_trials_that_are_not_viable_do_not_count() -> None:
    trials, merges = _tables([0.1, 0.2])
    trials = table([{**row, "outcome": "not_viable"} for row in trials.to_pylist()[:1]] + trials.to_pylist()[1:])
    assert [e.trials for e in compare_windows(trials, merges)] == [1, 1]


def test_readers_of_curves_see_the_last_weights_alone() -> None:
    _, merges = _tables([0.1, 0.2])
    assert set(select_last_weights(merges).column("window").to_pylist()) == {None}
    assert select_last_weights(merges).num_rows == merges.num_rows // 2
