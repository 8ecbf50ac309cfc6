"""Tiny-ImageNet (64x64, 200 classes, original folder layout in the data root) with timm's DenseNet-121."""

from optuna.distributions import FloatDistribution, IntDistribution

from search_spaces import cifar10_resnet18

SPACE = cifar10_resnet18.SPACE.override(
    parameters={"batch_size": IntDistribution(32, 512, log=True)},
    fixed={
        "dataset": "image_folder",
        "dataset_options": {"path": "tiny-imagenet-200", "size": 64},
        "model": "timm:densenet121",
        "branch_step": 10_000,
        "steps": 5_000,
        "accuracy_floor": 0.05,
    },
    doc="branch pairs of DenseNet-121 off a trunk on Tiny-ImageNet and anneal them",
    budget="20,000 steps per pair (trunk 10,000, children 5,000 each), 2.6 million 64x64 images at B = 128: for a GPU",
    # scikit-learn's digits, because Tiny-ImageNet needs a download, and a narrow DenseNet
    smoke={
        "dataset": "digits",
        "dataset_options": {"size": 32, "channels": 3},
        "model_options": {"growth_rate": 8, "block_config": [2, 2, 2, 2], "bn_size": 2},
        "branch_step": 40,
        "steps": 20,
        "autocast": "",
        "batch_size": IntDistribution(16, 64, log=True),
        "learning_rate": FloatDistribution(1e-3, 0.3, log=True),
    },
)
