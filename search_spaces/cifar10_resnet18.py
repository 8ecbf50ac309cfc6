"""CIFAR-10 with ResNet-18, as in the paper: a trunk at the trial's stable learning rate, then two children.

The ranges surround the example of the appendix, a learning rate of 0.1; its full grid is not available in
machine-readable form. The paper trains for 200,000 steps, 25 times the budget here.
"""

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from search_spaces._space import Space

SPACE = Space(
    doc="branch pairs of ResNet-18 off a trunk on CIFAR-10 and anneal them",
    budget="8,000 steps per pair (trunk 4,000, children 2,000 each), 1.0 million images at B = 128: for a GPU",
    source="setting of arXiv 2510.04686: protocol branch, WSD with 1-sqrt decay, SGD, fixed steps",
    fixed={
        "dataset": "cifar10",
        "model": "resnet18_32",
        "protocol": "branch",
        "branch_step": 4000,
        "steps": 2000,
        "decay": 0.5,
        "augmentation": "crop_flip",
        "autocast": "bfloat16",
        "base": {"steps": 0},
        "accuracy_floor": 0.3,
    },
    knobs={
        "learning_rate": FloatDistribution(1e-3, 1.0, log=True),
        "batch_size": IntDistribution(32, 1024, log=True),
        "momentum": CategoricalDistribution((0.0, 0.5, 0.9, 0.95)),
        "weight_decay": FloatDistribution(1e-5, 5e-3, log=True),
        "augmentation_strength": FloatDistribution(0.0, 1.0),
    },
    # CIFAR-10 re-encoded as JPEG, from an archive in the data root
    smoke={
        "dataset": "cifar10_jpeg",
        "dataset_options": {"train": 600, "val": 200, "test": 200},
        "merges": ["linear"],
        "model_options": {"width": 4},
        "branch_step": 30,
        "steps": 20,
        "autocast": "",
        "batch_size": IntDistribution(16, 64, log=True),
        "learning_rate": FloatDistribution(1e-3, 0.3, log=True),
        "accuracy_floor": 0.1,
    },
)
