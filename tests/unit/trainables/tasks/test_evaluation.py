from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from tests.support.small_trials import linear_model, random_data
from trainables.models.registry import MODELS
from trainables.tasks import evaluation
from trainables.tasks.evaluation import Score, barriers, finite, gains, recalibrate, score, score_splits


def test_gains_by_hand_with_their_sign() -> None:
    a, b, merged = ({"val": Score(*v)} for v in ((0.4, 0.90), (0.6, 0.80), (0.3, 0.88)))
    assert gains(a, b, merged) == pytest.approx(
        {
            "gain_mean_loss_val": 0.2,  # (0.4 + 0.6)/2 - 0.3: a lower merged loss is a positive gain
            "gain_best_loss_val": 0.1,
            "gain_mean_accuracy_val": 0.03,  # 0.88 - (0.9 + 0.8)/2
            "gain_best_accuracy_val": -0.02,
        }
    )


def test_barriers_by_hand() -> None:
    # losses .2 at A, .6 at B; a bump of .5 at 1/4 and .7 at 3/4
    losses = {0.0: 0.2, 0.25: 0.5, 0.5: 0.45, 0.75: 0.7, 1.0: 0.6}
    accuracy = {0.0: 0.9, 0.25: 0.85, 0.5: 0.8, 0.75: 0.8, 1.0: 0.7}
    curve = {t: {"test": Score(losses[t], accuracy[t])} for t in losses}
    assert barriers(curve) == pytest.approx(
        {
            "barrier_frankle_loss_test": 0.3,  # .7 - (.2 + .6)/2
            "barrier_entezari_loss_test": 0.2,  # at 1/4: .5 - (.75*.2 + .25*.6); at 3/4 only .2
            "barrier_frankle_error_test": 0.1,  # .3 - (.1 + .3)/2, at B itself
            "barrier_entezari_error_test": 0.0,  # no error above the chord
        },
        abs=1e-12,
    )


def test_a_valley_between_the_ends_has_no_entezari_barrier() -> None:
    curve = {t: {"val": Score(v, 1.0)} for t, v in {0.0: 0.5, 0.5: 0.1, 1.0: 0.5}.items()}
    found = barriers(curve)
    assert (found["barrier_frankle_loss_val"], found["barrier_entezari_loss_val"]) == (0.0, 0.0)


def test_a_merge_that_overflowed_is_a_barrier_and_not_an_improvement() -> None:
    broken = score(torch.full((4, 3), math.nan), torch.tensor([0, 1, 2, 0]))
    assert broken.loss == math.inf
    fine = Score(0.5, 0.9)
    found = barriers({0.0: {"val": fine}, 0.5: {"val": broken}, 1.0: {"val": fine}})
    assert found["barrier_frankle_loss_val"] == found["barrier_entezari_loss_val"] == math.inf
    assert gains({"val": fine}, {"val": fine}, {"val": broken})["gain_mean_loss_val"] == -math.inf


def test_score_is_mean_cross_entropy_in_nat_and_share_of_hits() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1], [0.2, 0.3, 0.5]]))
    found = score(logits, torch.tensor([0, 1, 0]))
    assert found.loss == pytest.approx(-(math.log(0.5) + math.log(0.8) + math.log(0.2)) / 3, rel=1e-6)
    assert found.accuracy == pytest.approx(2 / 3)


def test_scores_do_not_depend_on_the_evaluation_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = linear_model(), random_data(64)
    weights = {k: torch.randn_like(v) for k, v in model.state_dict().items()}
    whole, logits = score_splits(model, weights, data)
    monkeypatch.setattr(evaluation, "EVAL_BATCH", 7)
    parts, _ = score_splits(model, weights, data)
    for split, value in whole.items():
        assert parts[split].loss == pytest.approx(value.loss, rel=1e-12)
        wanted = data.x[split][:].flatten(1) @ weights["1.weight"].T + weights["1.bias"]
        torch.testing.assert_close(logits[split], wanted)
    assert all(not v.any() for v in model.state_dict().values())  # the model's own weights stay as they were


def test_recalibrated_statistics_are_those_computed_by_hand() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 5)).double()
    g = torch.Generator().manual_seed(0)
    batches = [3 * torch.randn(16, 3, 4, 4, generator=g, dtype=torch.float64) + i for i in range(5)]
    before = {k: v.clone() for k, v in model.state_dict().items()}
    weights = {**before, "0.running_mean": torch.full((3,), 100.0).double()}
    after = recalibrate(model, weights, batches)
    arrays = [b.numpy() for b in batches]
    mean = np.mean([x.mean((0, 2, 3)) for x in arrays], 0)
    var = np.mean([x.var((0, 2, 3), ddof=1) for x in arrays], 0)
    np.testing.assert_allclose(after["0.running_mean"].numpy(), mean, rtol=1e-12)
    np.testing.assert_allclose(after["0.running_var"].numpy(), var, rtol=1e-12)
    assert after["0.num_batches_tracked"].item() == 5
    assert torch.equal(after["2.weight"], before["2.weight"])
    assert weights["0.running_mean"].tolist() == [100.0] * 3  # the input stays as it was
    assert list(after) == list(before)


def test_recalibration_does_not_depend_on_what_ran_before() -> None:
    model = MODELS["small_cnn"](10, 1, norm="batch").double()
    batches = list(random_data(64).x["train"].split(16))
    weights = {k: v.clone() for k, v in model.state_dict().items()}  # the result shares the parameters it is given
    first = recalibrate(model, weights, batches)
    other = {k: v + 0.1 if v.is_floating_point() else v for k, v in first.items()}
    recalibrate(model, other, batches)
    again = recalibrate(model, first, batches)
    assert all(torch.equal(first[k], again[k]) for k in first)


def test_recalibration_with_dropout_is_the_same_for_every_merge() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64, 10)).double()
    batches, state = list(random_data(64).x["train"].split(16)), torch.random.get_rng_state()
    first, again = (recalibrate(model, model.state_dict(), batches) for _ in range(2))
    assert torch.equal(first["1.running_var"], again["1.running_var"])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_model_without_batchnorm_comes_back_as_it_is() -> None:
    model = linear_model()
    weights = {k: v + 1 for k, v in model.state_dict().items()}
    assert recalibrate(model, weights, []) == weights


def test_numbers_that_are_not_finite_become_empty() -> None:
    assert finite({"a": math.nan, "b": math.inf, "c": 1.5, "d": "x", "e": 3}) == {
        "a": None, "b": None, "c": 1.5, "d": "x", "e": 3,
    }  # fmt: skip
