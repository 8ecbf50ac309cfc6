"""scikit-learn's digits (8x8, bundled) with a 14k-parameter GroupNorm CNN: seconds per pair on a laptop core."""

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from search_spaces._space import Space

SPACE = Space(
    doc="fine-tune pairs of small GroupNorm CNNs on scikit-learn's digits, 8 epochs from a base of 60 steps",
    budget="8 epochs of 720 images per child: seconds per pair on one CPU core",
    source="setting of arXiv 2510.04686 (shared base, WSD with 1-sqrt decay, SGD) on data that needs no download",
    fixed={
        "dataset": "digits",
        "model": "small_cnn",
        "epochs": 8,
        "augmentation": "shift",
        "base": {"steps": 60, "learning_rate": 0.02, "momentum": 0.9, "batch_size": 32, "seed": 0},
        "accuracy_floor": 0.5,
    },
    # both ends fail: below 1e-3 the pair hardly moves, near 3 it collapses
    knobs={
        "learning_rate": FloatDistribution(3e-4, 3.0, log=True),
        "batch_size": IntDistribution(8, 128, log=True),
        "momentum": CategoricalDistribution((0.0, 0.5, 0.9, 0.95)),
        "weight_decay": FloatDistribution(1e-5, 3e-2, log=True),
        "augmentation_strength": FloatDistribution(0.0, 1.0),
    },
)
