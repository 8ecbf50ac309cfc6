"""Importance of knobs: the share of a score's variance that each knob explains alone.

Source: functional ANOVA over a random forest, Hutter, Hoos & Leyton-Brown 2014 (ICML), as optuna implements it.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

from optuna import logging
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.study import create_study
from optuna.trial import create_trial

from sweeper.analysis.curve.smoother import Array

TREES = 64


def measure_shares(places: Mapping[str, Array], score: Array, seed: int = 0) -> dict[str, float]:
    """Return knob -> share of the explained variance; the shares sum to 1.

    Args:
        places: Knob -> its values, on a scale where distances count, shape (n,); each knob varies.
        score: The scores, shape (n,).
        seed: Seed of the forest.
    """
    level = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)  # a study that nobody asked for is no news
    study = create_study()
    logging.set_verbosity(level)
    kinds: dict[str, BaseDistribution] = {
        k: FloatDistribution(float(v.min()), float(v.max())) for k, v in places.items()
    }
    for i, value in enumerate(score.tolist()):
        params = {k: float(v[i]) for k, v in places.items()}
        study.add_trial(create_trial(value=value, params=params, distributions=kinds))
    evaluator = FanovaImportanceEvaluator(n_trees=TREES, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return get_param_importances(study, evaluator=evaluator)
