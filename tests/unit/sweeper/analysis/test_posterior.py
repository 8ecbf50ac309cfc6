"""What the model says about finished sweeps on the closed form, whose best noise is known."""

import re
from pathlib import Path

import pyarrow as pa
import pytest

import sweeper
from sweeper import SweepSpec
from sweeper.analysis.posterior import Posterior, fit_posterior
from sweeper.analysis.stages.noise_exponents import (
    FactorExponent,
    choose_exponents,
    format_exponents,
    list_exponents,
)
from sweeper.analysis.text import format_posterior, noise_share
from trainables.pair.synthetic import BEST_NOISE

SPEC = SweepSpec(space="synthetic", runner="inline", sampler="random", objective="merged_loss", trials=40, seed=3)


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> pa.Table:
    return sweeper.run(SPEC.model_copy(update={"out": str(tmp_path_factory.mktemp("belief") / "run")})).trials


@pytest.fixture(scope="module")
def believed(trials: pa.Table) -> Posterior:
    return fit_posterior(SPEC, trials)


def test_the_model_explains_what_another_sampler_proposed(believed: Posterior) -> None:
    found = believed.explanation
    assert found is not None
    assert found.optimum is not None
    assert BEST_NOISE / 2 < found.optimum < BEST_NOISE * 2
    assert found.trials == 40
    assert found.variance_share > 0.5
    assert believed.given == {"learning_rate": 1.0, "batch_size": -1.0, "momentum": -1.0}
    for role, given in believed.given.items():
        assert found.exponents[role] == pytest.approx(given, abs=0.3)


def test_repeats_are_trials_and_no_configurations(believed: Posterior) -> None:
    record = {**believed.record(), "trials": 60, "configs": 44}
    assert format_posterior(record, "paper").startswith("the search's model of 60 trials of 44 configurations: ")
    del record["configs"]
    assert format_posterior(record, "paper").startswith("the search's model of 60 trials: ")


def test_the_text_sets_the_fitted_exponents_beside_the_definition(believed: Posterior) -> None:
    text = format_posterior(believed.record(), "paper")
    assert text.startswith("the search's model of 40 trials of 40 configurations: noise paper accounts for ")
    assert "best noise" not in text  # `status` prints that of the regime
    assert re.search(
        r"noise paper accounts for (> )?\d+ % \(90 % interval (> )?\d+ to (> )?\d+ %\) of the explained variance",
        " ".join(text.split()),
    )
    table = format_exponents(choose_exponents(None, believed.record(), "paper"))
    assert [line.split()[:2] for line in table.splitlines()[-4:]] == [
        ["η", "1"],
        ["1/B", "1"],
        ["1/(1−μ)", "1"],
        ["λ", "0"],
    ]


def test_exponents_are_those_of_factors_relative_to_the_first() -> None:
    record = {
        "exponents": {"learning_rate": 2.0, "batch_size": -1.8, "momentum": 0.2},
        "given": {"learning_rate": 2.0, "batch_size": -2.0},
        "exponent_low": {"batch_size": -2.4},
        "exponent_high": {"batch_size": -1.0},
    }
    assert list_exponents(record) == [
        FactorExponent("η", 1.0, 1.0, None),
        FactorExponent("1/B", 1.0, 0.9, (0.5, 1.2)),
        FactorExponent("1/(1−μ)", 0.0, -0.1, None),
    ]


def test_a_favourite_with_a_single_trial_has_no_error(trials: pa.Table, believed: Posterior) -> None:
    assert believed.favourite is not None
    assert believed.favourite.sd is None
    rows = trials.to_pylist()
    again = [{**r, "repeat": 1, "digest": f"again{i}"} for i, r in enumerate(rows)]
    repeated = fit_posterior(SPEC, pa.Table.from_pylist([*rows, *again], schema=trials.schema)).favourite
    assert repeated is not None
    assert repeated.sd is not None


@pytest.mark.parametrize(("share", "text"), [(0.9999, "> 99 %"), (0.5, "50 %"), (0.001, "< 1 %")])
def test_no_share_of_the_noise_is_certain(share: float, text: str) -> None:
    assert f"noise paper accounts for {text} of the explained variance" in noise_share(
        {"variance_share": share}, "paper"
    )


def test_what_was_stopped_counts_as_bad_and_is_no_favourite(trials: pa.Table, believed: Posterior) -> None:
    assert believed.favourite is not None
    rows = trials.to_pylist()
    stopped = [{**r, "outcome": "pruned"} if r["config"] == believed.favourite.config else r for r in rows]
    found = fit_posterior(SPEC, pa.Table.from_pylist(stopped, schema=trials.schema))
    assert found.explanation is not None
    assert found.explanation.trials == 40
    assert found.favourite is not None
    assert found.favourite.config != believed.favourite.config


def test_few_configurations_are_not_modelled(trials: pa.Table) -> None:
    found = fit_posterior(SPEC, trials.slice(0, 5))
    assert found == Posterior(
        unexplained="5 configurations have a value, the model needs 6",
        undecided="5 configurations have a value, the model needs 6",
    )
    assert (
        format_posterior(found.record(), "paper")
        == "no model of noise paper: 5 configurations have a value, the model needs 6"
    )


def test_a_measured_noise_is_not_explained(trials: pa.Table) -> None:
    found = fit_posterior(SPEC, trials, "critical_ratio")
    assert found.explanation is None
    assert "is measured during training" in found.unexplained


def test_a_space_that_is_gone_is_said(trials: pa.Table, tmp_path: Path) -> None:
    found = fit_posterior(SPEC.model_copy(update={"space": str(tmp_path / "gone.py")}), trials)
    assert "gone.py" in found.unexplained
    assert found.undecided == found.unexplained


def test_a_measured_noise_has_no_model_and_no_advice_to_show_it_again(trials: pa.Table) -> None:
    unexplained = fit_posterior(SPEC, trials, "paper_full").unexplained
    assert unexplained == "it is measured during training, and the model needs a noise that the knobs predict"
