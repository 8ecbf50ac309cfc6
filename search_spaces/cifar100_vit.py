"""CIFAR-100 with a small vision transformer and AdamW; its noise is `adam_sde`, `adamw_angular` or `adamw_tau`."""

from optuna.distributions import FloatDistribution, IntDistribution

from search_spaces._space import Space

SPACE = Space(
    doc="branch pairs of a small vision transformer off a trunk on CIFAR-100 with AdamW and anneal them",
    budget="12,000 steps per pair (trunk 6,000, children 3,000 each), 1.5 million images at B = 128: for a GPU",
    source="arXiv 2510.04686 on a transformer; AdamW's noise after Malladi et al. 2022, arXiv 2205.10287",
    fixed={
        "dataset": "cifar100",
        "model": "small_vit",
        "optimizer": "adamw",
        "protocol": "branch",
        "branch_step": 6000,
        "steps": 3000,
        "warmup": 0.1,
        "decay": 0.5,
        "augmentation": "crop_flip+mixup",
        "autocast": "bfloat16",
        "base": {"steps": 0},
        "accuracy_floor": 0.1,
    },
    knobs={
        "learning_rate": FloatDistribution(1e-5, 1e-2, log=True),
        "batch_size": IntDistribution(32, 1024, log=True),
        "weight_decay": FloatDistribution(1e-3, 1.0, log=True),
        "augmentation_strength": FloatDistribution(0.0, 1.0),
    },
    # scikit-learn's digits, because data sets with 100 classes need a download
    smoke={
        "dataset": "digits",
        "dataset_options": {"size": 32, "channels": 3},
        "model_options": {"dim": 48, "depth": 2, "heads": 3, "patch": 8},
        "branch_step": 60,
        "steps": 30,
        "autocast": "",
        "batch_size": IntDistribution(16, 64, log=True),
    },
)
