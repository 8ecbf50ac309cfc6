"""CIFAR-100 with ResNet-18, the paper's main setting; see cifar10_resnet18 for the ranges."""

from optuna.distributions import FloatDistribution, IntDistribution

from search_spaces import cifar10_resnet18

SPACE = cifar10_resnet18.SPACE.override(
    parameters={},
    fixed={"dataset": "cifar100", "accuracy_floor": 0.1},
    doc="branch pairs of ResNet-18 off a trunk on CIFAR-100 and anneal them",
    # scikit-learn's digits, because data sets with 100 classes need a download
    smoke={
        "dataset": "digits",
        "dataset_options": {"size": 16, "channels": 3},
        "merges": ["linear"],
        "model_options": {"width": 8},
        "branch_step": 30,
        "steps": 20,
        "autocast": "",
        "batch_size": IntDistribution(16, 64, log=True),
        "learning_rate": FloatDistribution(1e-3, 0.3, log=True),
    },
)
