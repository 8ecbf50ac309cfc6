"""Does the noise select the basin, or shape the way inside it? Noise of the trunk and of the children apart."""

from optuna.distributions import FloatDistribution

from search_spaces._space import Space

SPACE = Space(
    doc="pairs that branch off a trunk on noisy digits; learning rates of the trunk and of the children are knobs",
    budget="a trunk of 110 steps and 4 epochs of 720 images per child: seconds per pair on one CPU core",
    source="protocol branch of arXiv 2510.04686, with the noise varied before and after the branch",
    fixed={
        "dataset": "digits",
        "dataset_options": {"label_noise": 0.2},
        "model": "small_cnn",
        "protocol": "branch",
        "branch_step": 110,
        "base": {"steps": 0},
        "batch_size": 64,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "augmentation": "shift",
        "augmentation_strength": 0.5,
        "epochs": 4,
        "accuracy_floor": 0.5,
    },
    knobs={
        "trunk.learning_rate": FloatDistribution(3e-3, 0.6, log=True),
        "learning_rate": FloatDistribution(3e-3, 0.6, log=True),
    },
)
