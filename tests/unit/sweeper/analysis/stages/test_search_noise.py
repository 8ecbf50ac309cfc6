"""The noise that a search moves along: another definition only where the map prefers it beyond doubt."""

from sweeper.analysis.stages.search_noise import describe_preference, find_preference
from tests.support.evidence_cells import bell, grid
from tests.support.trial_rows import flat, sweep, table

KNOWN = ("paper", "linear")


def test_the_search_takes_the_definition_that_generated_the_map() -> None:
    trials = table(grid(bell, scatter=0.004, one_minus_momentum=0.0))
    preferred = find_preference(trials, "gain_mean", "paper", KNOWN)
    assert preferred is not None
    assert preferred.noise == "linear"
    assert preferred.r2 > preferred.shown_r2
    sentence = describe_preference(preferred, "paper")
    assert sentence.startswith("the map prefers noise linear (R² ")
    assert sentence.endswith("the search moves along η/B")
    assert find_preference(trials, "gain_mean", "linear", KNOWN) is None
    assert find_preference(trials, "gain_mean", "paper", ("paper",)) is None  # it cannot move along the other


def test_a_flat_map_prefers_nothing() -> None:
    assert find_preference(table(sweep(flat, 40, 0)), "gain_mean", "paper", KNOWN) is None
