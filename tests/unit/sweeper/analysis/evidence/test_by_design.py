"""What is judged: the design of an extended sweep, nothing where no trial is viable; a loss in words of its own."""

from typing import Any

import numpy as np
import pytest

from sweeper.analysis.evidence.analyse import analyse
from sweeper.analysis.regime import fit_regime
from tests.support.trial_rows import hump, sweep, table, trial


def extended(levels: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """An adaptive search, and the hump at `levels` designed noises with three repeats each."""
    rng = np.random.default_rng(1)
    added = [
        trial(
            f"new{i}",
            0.035 * np.exp(-(np.log(noise / 1e-2) ** 2) / 2.88) + 0.002 * rng.normal(),
            repeat=r,
            learning_rate=3.2 * noise,
            sampler="extend",
        )
        for i, noise in enumerate(np.geomspace(1e-4, 1, levels))
        for r in range(3)
    ]
    return sweep(hump, 30, 5, sampler="noise"), added


def test_the_verdict_is_that_of_the_added_noises() -> None:
    search, added = extended(9)
    found = analyse(table([*search, *added]), draws=100)
    alone = analyse(table(added), draws=100)
    assert found.set_aside == 30
    assert (found.verdict, found.judged.gate, found.n_trials) == (alone.verdict, alone.judged.gate, 27)
    assert found.verdict == "hump"
    assert found.regime == fit_regime(table(added), draws=100)
    assert found.ranking == alone.ranking
    assert "The 30 trials of pilots, search and confirmation enter no test" in found.sentences[1]


@pytest.mark.parametrize("levels", [0, 5])
def test_too_few_added_noises_leave_it_undetermined(levels: int) -> None:
    search, added = extended(levels) if levels else (extended(1)[0], [])
    found = analyse(table([*search, *added]), draws=100)
    assert (found.set_aside, found.verdict) == (0, "undetermined")
    assert "the noise sampler chose these noises by results" in found.judged.why


def test_without_a_viable_trial_every_part_says_so() -> None:
    found = analyse(
        table([trial(f"c{i}", None, learning_rate=0.1 + i, outcome="diverged") for i in range(8)]), draws=20
    )
    assert (found.verdict, found.n_configs, found.transfer.r2, found.collapse.n_curves) == ("undetermined", 0, None, 0)
    assert found.transfer.reason


def test_a_loss_falls_to_its_best_noise_and_rises_beyond() -> None:
    _, added = extended(9)
    gain, loss = (analyse(table(added), name, draws=100).sentences for name in ("gain_mean", "merged_loss"))
    assert "It rises before and falls beyond." in gain[0]
    assert "It falls before and rises beyond." in loss[0]
    assert "at low noise it falls by" in loss[1]
