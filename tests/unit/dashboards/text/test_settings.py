from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import pytest

from dashboards.text.settings import PREDICTIONS, make_noise_card, make_settings_card
from search_spaces import load
from sweeper.analysis.recommend import Recommendation
from sweeper.analysis.regime import Regime
from sweeper.analysis.settings.settings import MEANING, Confirmation, Estimate, Settings, render
from sweeper.config.spec import SweepSpec

SPEC = SweepSpec(space="digits_label_noise")
PARAMS = {"learning_rate": 0.0123456, "batch_size": 32, "momentum": 0.9, "weight_decay": 1e-4,
          "augmentation_strength": 0.5}  # fmt: skip


def settings(batch_size: int = 32, **more) -> Settings:
    params = {**PARAMS, "batch_size": batch_size}
    scores = {"gain_mean": Estimate(0.05, 0.004), "merged_accuracy": Estimate(0.957, 0.01)}
    given = {
        "sweep": SPEC, "params": params, "fixed": (), "objective": "gain_mean", "split": "val",
        "predicted": scores["gain_mean"], "scores": scores, "noise": 0.0039, "noise_name": "paper",
        "learning_rate_low": 0.01, "learning_rate_high": 0.02, "step": 0.12, "stability_limit": None,
        "spec": load("digits_label_noise").build(params, seed=0),
    }  # fmt: skip
    return Settings(**{**given, **more})


def advice(batch_size: int, **more) -> Recommendation:
    given = {
        "batch_size": batch_size, "momentum": 0.9, "weight_decay": 1e-4, "learning_rate": 0.01 * batch_size,
        "learning_rate_low": 0.005, "learning_rate_high": 0.02, "noise": 0.1, "outside_tried": (),
        "beyond_stability": False, "low_beyond_stability": False, "high_beyond_stability": False,
        "note": "within the tried range",
    }  # fmt: skip
    return Recommendation(**{**given, **more})


def test_whole_settings_come_by_batch_size_and_the_best_is_shown_first() -> None:
    best, small = settings(32), settings(8, fixed=("batch_size",))
    card = make_settings_card([best, small, settings(32, fixed=("batch_size",))])
    assert [c.label for c in card.choices] == ["8", "32 (best)"]
    shown = card.choices[card.chosen]
    assert shown.batch_size == 32
    facts = {f.name: (f.value, f.more) for f in shown.facts}
    assert facts["learning rate"] == ("0.0123", "0.01 to 0.02")
    assert facts["augmentation"] == ("0.5", "")
    assert facts["noise of these"] == ("0.0039", "")
    assert shown.code == render(best, "torch").rstrip()
    assert shown.expected == (
        "Expect loss gain 0.05 ± 0.004 nat on validation, predicted; "
        "merged accuracy 95.7 ± 1.0 % on validation, predicted."
    )
    assert (shown.note, shown.warns) == ("Within the tried range.", False)


@pytest.mark.parametrize(
    ("name", "noise", "more"),
    [
        ("paper", 0.0039, "within the verdict's 0.002 to 0.008"),
        ("paper", 0.01, "outside the verdict's 0.002 to 0.008"),
        ("sde", 0.0039, ""),
    ],
)
def test_the_noise_of_the_settings_stands_beside_the_interval(name: str, noise: float, more: str) -> None:
    fit = cast(Regime, SimpleNamespace(noise=name, low=0.002, high=0.008))
    card = make_settings_card([settings(noise=noise)], fit)
    assert {f.name: f.more for f in card.choices[0].facts}["noise of these"] == more


def test_fresh_pairs_replace_the_prediction() -> None:
    confirmed = Confirmation(4, {"gain_mean": Estimate(0.047, 0.002)})
    card = make_settings_card([replace(settings(), confirmed=confirmed, notes=("check it",))])
    told = "Expect loss gain 0.047 ± 0.002 nat on test (confirmed by 4 fresh pairs; ± standard error)."
    assert card.choices[0].expected == told
    assert (card.choices[0].note, card.choices[0].warns) == ("Check it.", True)


def test_the_card_says_once_that_predictions_are_of_another_split() -> None:
    confirmed = Confirmation(4, {"gain_mean": Estimate(0.047, 0.002)})
    best, other = settings(confirmed=confirmed), settings(8)
    assert make_settings_card([best]).notes == (MEANING,)
    assert make_settings_card([best, other]).notes == (f"{PREDICTIONS} {MEANING}",)
    card = make_settings_card([replace(best, confirmed=None, split="test")])
    assert card.notes == (MEANING,)
    assert card.choices[0].expected.endswith("on test, predicted.")


def test_without_settings_there_is_no_card() -> None:
    assert make_settings_card([]) is None
    assert make_noise_card([], None, "") is None


@pytest.mark.parametrize(("optimizer", "code"), [("sgd", "torch.optim.SGD("), ("adamw", "torch.optim.AdamW(")])
def test_the_best_noise_alone_gives_a_card_near_the_winner(optimizer: str, code: str) -> None:
    sizes = [advice(8), advice(32), advice(128, beyond_stability=True)]
    card = make_noise_card(sizes, {"batch_size": 100, "optimizer": optimizer}, "Expect 1.")
    shown = card.choices[card.chosen]
    assert (shown.batch_size, shown.expected, shown.warns) == (32, "Expect 1.", False)
    assert "batch_size = 32" in shown.code
    assert code in shown.code
    assert card.choices[2].warns
