"""A user's own space."""

from optuna.distributions import FloatDistribution

from search_spaces import Space

SPACE = Space(
    name="mine",
    doc="A closed form with a user's own ranges.",
    knobs={"learning_rate": FloatDistribution(1e-3, 0.5, log=True), "momentum": FloatDistribution(0.0, 0.9)},
    fixed={"trainable": "synthetic", "dataset": "synthetic", "model": "synthetic", "batch_size": 32},
)
