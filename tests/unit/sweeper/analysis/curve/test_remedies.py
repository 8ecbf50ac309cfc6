from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from sweeper.analysis.curve.merge_methods import fit_merge_methods
from sweeper.analysis.curve.remedies import QUESTION, Remedy, describe_remedies, find_remedies
from sweeper.analysis.curve.windows import Change
from sweeper.storage.schema import SCHEMAS
from tests.support.trial_rows import table, trial

BEST = 1e-2
LEVELS = np.exp(np.linspace(math.log(1e-3), math.log(1e-1), 30))
Loss = Callable[[float], float]


def _linear(x: float) -> float:
    """Loss over log noise relative to the best: .3, and .1 for each squared unit."""
    return 0.3 + 0.1 * x**2


def _tables(others: Mapping[str, Loss], repeats: int = 1, scatter: float = 0.003) -> tuple[pa.Table, pa.Table]:
    rng, trials, rows = np.random.default_rng(0), [], []
    for i, noise in enumerate(LEVELS):
        for repeat in range(repeats):
            row = trial(f"c{i:02d}", 0.0, repeat=repeat, noise_paper=float(noise), sampler="qmc")
            trials.append(row)
            # what the children share cancels in a paired difference
            shared = scatter * rng.standard_normal()
            for method, loss in {"linear": _linear, **others}.items():
                value = loss(math.log(noise / BEST)) + shared
                rows.append({"digest": row["digest"], "config": row["config"], "method": method, "coefficient": 0.5,
                             "loss_val": value, "loss_test": value, "accuracy_test": 1 - value / 2})  # fmt: skip
    schema = SCHEMAS["merges"]
    return table(trials), pa.Table.from_pylist([{n: r.get(n) for n in schema.names} for r in rows], schema)


def _find(others: Mapping[str, Loss], repeats: int = 1) -> tuple[Remedy, ...]:
    trials, merges = _tables(others, repeats)
    return find_remedies(trials, merges, "paper", fit_merge_methods(trials, merges, "paper"))


def test_a_flat_method_makes_up_for_the_wrong_noise_and_half_a_cure_does_in_part() -> None:
    low, high = _find({"flat": lambda x: 0.3 if x > 0 else _linear(x) + 0.01, "half": lambda x: 0.3 + 0.05 * x**2})
    assert (low.side, high.side) == ("low", "high")
    assert (low.answer, high.answer) == ("in part, by half", "yes, by flat")
    assert (low.limit, high.limit) == pytest.approx((BEST / 3, BEST * 3), rel=0.25)
    for remedy, truth in ((low, lambda x: 0.05 * x**2), (high, lambda x: 0.0)):
        inside = [math.log(v / BEST) for v in LEVELS if (v < remedy.limit) == (remedy.side == "low")]
        assert remedy.configurations == len(inside)
        cost = np.mean([0.1 * x**2 for x in inside])
        rest = np.mean([truth(x) for x in inside])
        assert remedy.cost is not None
        assert remedy.change is not None
        assert remedy.rest is not None
        assert remedy.accuracy is not None
        assert remedy.cost.mean == pytest.approx(cost, abs=0.02)
        assert remedy.change.mean == pytest.approx(rest - cost, abs=1e-9)  # the same children
        assert remedy.rest.mean == pytest.approx(rest, abs=0.02)
        assert remedy.accuracy.mean == pytest.approx((cost - rest) / 2)
        assert remedy.methods == 2
        for change in (remedy.cost, remedy.change, remedy.rest, remedy.accuracy):
            assert change.low < change.mean < change.high
    answer, below, above = describe_remedies((low, high))
    assert answer == f"{QUESTION} For too little noise: in part, by half. For too much noise: yes, by flat."
    assert below.startswith(
        f"With too little noise (below {low.limit:.3g}, {low.configurations} configurations), the linear merge has +"
    )
    assert " It stays +" in below
    assert "There, flat, the best of 2 other methods, changes the loss by -" in above
    assert " It stays " not in above


def test_a_method_that_only_shifts_by_chance_is_no_remedy() -> None:
    rng = np.random.default_rng(1)
    for remedy in _find({"same": lambda x: _linear(x) + 0.02 * rng.standard_normal()}):
        assert remedy.answer == "no"


def test_a_remedy_reads_as_sentences_and_its_numbers_round_to_their_interval() -> None:
    cost, change = Change(0.1041, 0.0731, 0.1351), Change(3.4e-4, -5.1e-4, 1.19e-3)
    low = Remedy("low", 3.42e-3, 10, cost, "task_arithmetic", 1, change, Change(1.1e-17, -6.8e-4, 6.8e-4), cost)
    residue = Change(1.1e-16, -2.2e-16, 4.4e-16)
    high = Remedy("high", 0.0308, 7, cost, "task_arithmetic", 3, residue, residue, cost)
    answer, below, above = describe_remedies((low, high))
    assert answer == f"{QUESTION} No, neither for too little nor for too much."
    assert below == (
        "With too little noise (below 0.00342, 10 configurations), the linear merge has +0.104 nat more loss than at "
        "its best noise (+0.073 to +0.135). There, task arithmetic changes the loss by +0.00034 nat (-0.00051 to "
        "+0.00119) and the accuracy by 0 points (-0.068 to +0.068)."
    )
    assert above.endswith(
        " There, task arithmetic, the best of 3 other methods, changes the loss by 0 nat (0 to 0) and the accuracy by "
        "0 points (0 to 0)."
    )


def test_repeats_count_as_one_configuration() -> None:
    one, three = _find({"half": lambda x: 0.3 + 0.05 * x**2}), _find({"half": lambda x: 0.3 + 0.05 * x**2}, repeats=3)
    assert [r.configurations for r in one] == [r.configurations for r in three]


def test_where_noise_costs_nothing_there_is_nothing_to_make_up_for() -> None:
    trials, merges = _tables({"half": lambda x: 0.3 + 0.05 * x**2})
    curves = fit_merge_methods(trials, merges, "paper")
    # the linear merge far above what its trials have
    raised = tuple(c if c.method != "linear" else _raise(c, 1.0) for c in curves)
    assert {r.answer for r in find_remedies(trials, merges, "paper", raised)} == {"no need is seen"}


def _raise(curve: Any, by: float) -> Any:
    return replace(curve, loss=curve.loss + by, loss_low=curve.loss_low + by, loss_high=curve.loss_high + by)


def test_too_few_configurations_give_no_answer() -> None:
    trials, merges = _tables({"half": lambda x: 0.3 + 0.05 * x**2})
    curves = fit_merge_methods(trials, merges, "paper")
    kept = trials.filter(pa.array([v < 2e-2 for v in trials["noise_paper"].to_pylist()]))
    low, high = find_remedies(kept, merges, "paper", curves)
    assert low.change is not None
    assert high == Remedy("high", high.limit, 0)
    assert high.answer == "not known, since 0 of the needed 4 configurations lie there"
    answer, *details = describe_remedies((low, high))
    assert answer.endswith("For too much noise: not known, since 0 of the needed 4 configurations lie there.")
    assert len(details) == 1


def test_a_single_method_or_no_best_noise_has_no_remedy() -> None:
    assert _find({}) == ()
    assert describe_remedies(()) == ()
    trials, merges = _tables({"half": _linear})
    few = trials.slice(0, 3)
    assert find_remedies(few, merges, "paper", fit_merge_methods(few, merges, "paper")) == ()
