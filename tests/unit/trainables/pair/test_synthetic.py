from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from tests.support.small_trials import digits_spec, same
from trainables.pair import synthetic
from trainables.registry import UnknownName
from trainables.result import SCORES, SPLITS, Outcome
from trainables.runtime import Runtime, Stop
from trainables.spec import PairSpec
from trainables.tasks.evaluation import Score, barriers, gains
from trainables.trial import inspect, run_trials

SPEC = digits_spec(trainable="synthetic", dataset="none", model="none", learning_rate=0.032, base={"steps": 0})


def _at(noise: float, **changes: object) -> PairSpec:
    return replace(SPEC, learning_rate=noise * 32 * 0.1, **changes)


def test_the_gain_is_highest_at_the_known_noise() -> None:
    z = np.linspace(math.log(1e-4), math.log(1.0), 2001)
    gains_ = [synthetic.expected_gain(math.exp(v)) for v in z]
    best = math.exp(z[int(np.argmax(gains_))])
    assert best == pytest.approx(synthetic.BEST_NOISE, rel=0.05)
    assert max(gains_) == pytest.approx(synthetic.PEAK_GAIN, rel=0.05)
    assert abs(synthetic.expected_gain(1e-5)) < 1e-8
    assert synthetic.expected_gain(1.0) < -1


@pytest.mark.parametrize("noise", [1e-3, 1e-2, 5e-2])
def test_trials_scatter_around_the_expected_gain(noise: float) -> None:
    outputs = run_trials([_at(noise, repeat=i) for i in range(100)], Runtime())
    found = [o.result.scores["gain_mean_loss_test"] for o in outputs]
    assert np.std(found, ddof=1) == pytest.approx(0.004, rel=0.3)
    assert np.mean(found) == pytest.approx(synthetic.expected_gain(noise), abs=4 * 0.004 / math.sqrt(100))


def test_columns_follow_the_definitions_of_evaluation() -> None:
    (output,) = run_trials([_at(5e-2)], Runtime())
    scores = output.result.scores
    assert set(scores) == {c.name for c in SCORES if "only tasks" not in c.doc}
    line = {
        m.coefficient: {s: Score(getattr(m, f"loss_{s}"), getattr(m, f"accuracy_{s}")) for s in SPLITS}
        for m in output.merges
    }
    assert len(line) == 11
    wanted = gains(line[0.0], line[1.0], line[0.5]) | barriers(line)
    assert {k: scores[k] for k in wanted} == pytest.approx(wanted)
    best = min(output.merges, key=lambda m: m.loss_val)
    assert scores["chosen_loss_test"] == best.loss_test
    assert output.result.chosen_coefficient == best.coefficient


def test_the_same_digest_gives_the_same_numbers() -> None:
    first, again, other = run_trials([SPEC, SPEC, replace(SPEC, repeat=1)], Runtime())
    assert same(first.result, again.result, ("started",))
    assert (first.merges, first.history) == (again.merges, again.history)
    assert first.result.scores["merged_loss_val"] != other.result.scores["merged_loss_val"]
    assert first.weights is None


def test_training_beyond_the_stability_limit_diverges() -> None:
    (output,) = run_trials([replace(SPEC, learning_rate=2.5)], Runtime())
    assert output.result.outcome == Outcome.DIVERGED
    assert output.result.outcome_detail == "eta/(1 - mu) is above the closed form's limit of 20.0"
    assert (output.result.scores, output.merges) == ({}, ())


def test_rows_say_that_nothing_was_trained() -> None:
    (output,) = run_trials([SPEC], Runtime(device="cuda"))
    row = output.result
    assert (row.trainable, row.device, row.examples, row.steps) == ("synthetic", "cpu", 720, 22)
    assert inspect([SPEC], Runtime()) == 720


def test_rungs_shrink_towards_the_end_and_look_worse_at_high_noise() -> None:
    specs = [_at(noise, epochs=8, repeat=i) for noise in (1e-3, 4e-2) for i in range(50)]
    outputs, plain = run_trials(specs, Runtime(rungs=3)), run_trials(specs, Runtime())
    assert all(same(a.result, b.result, ("started",)) for a, b in zip(outputs, plain, strict=True))
    assert [(r.rung, r.step, r.epoch) for r in outputs[0].rungs] == [(1, 44, 2), (2, 88, 4), (3, 132, 6)]
    above = np.array([[r.merged_loss_val - o.result.scores["merged_loss_val"] for r in o.rungs] for o in outputs])
    low, high = above[:50].mean(0), above[50:].mean(0)
    left = synthetic.UNANNEALED * np.array([0.75, 0.5, 0.25])
    assert low == pytest.approx(left * math.sqrt(0.1), abs=4 * 0.004 / math.sqrt(50))
    assert high == pytest.approx(left * 2, abs=4 * 0.004 / math.sqrt(50))


def test_a_stopped_trial_of_the_closed_form_is_pruned() -> None:
    def report(record: Mapping[str, object]) -> None:
        if record.get("rung") == 2:
            raise Stop("hopeless")

    (output,) = run_trials([replace(SPEC, epochs=8)], Runtime(rungs=3), report)
    assert (output.result.outcome, output.result.outcome_detail) == (Outcome.PRUNED, "hopeless")
    assert (output.result.pruned_step, output.result.scores, len(output.rungs)) == (88, {}, 2)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"merges": ("linear", "greedy_soap")}, "merge 'greedy_soap'"),
        ({"schedule": "cosin"}, "did you mean cosine"),
        ({"augmentation": "shiftt"}, "shiftt"),
        ({"optimizer": "adamv"}, "adamv"),
    ],
)
def test_misspelt_names_are_refused_though_the_closed_form_ignores_them(
    changes: Mapping[str, object], sentence: str
) -> None:
    with pytest.raises((UnknownName, ValueError), match=sentence):
        inspect([SPEC, replace(SPEC, **changes)], Runtime())
    assert inspect([SPEC, replace(SPEC, merges=("linear", "slerp", "greedy_soup"))], Runtime()) == synthetic.EXAMPLES
