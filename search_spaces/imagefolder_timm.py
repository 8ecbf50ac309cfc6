"""Your own images, one folder per class, with any model of timm.

`sweeper run imagefolder_timm --data ROOT --set dataset_options.path=my_images --set model=convnext_atto`; with
`--set weights=pretrained` the base is timm's checkpoint.
"""

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from search_spaces._space import Space

SPACE = Space(
    doc="fine-tune pairs of a timm model on a folder of images (dataset_options.path and model by --set)",
    budget="2 epochs per child from a base of 500 steps at 224x224: minutes to hours per pair on a GPU",
    source="setting of arXiv 2510.04686 on the user's own images; protocol finetune",
    fixed={
        "dataset": "image_folder",
        "dataset_options": {"path": "images", "size": 224},
        "model": "timm:resnet18",
        "epochs": 2,
        "augmentation": "crop_flip",
        "autocast": "bfloat16",
        "base": {"steps": 500, "learning_rate": 0.01, "momentum": 0.9, "batch_size": 64, "seed": 0},
    },
    knobs={
        "learning_rate": FloatDistribution(1e-4, 0.3, log=True),
        "batch_size": IntDistribution(16, 256, log=True),
        "momentum": CategoricalDistribution((0.0, 0.5, 0.9, 0.95)),
        "weight_decay": FloatDistribution(1e-6, 1e-2, log=True),
        "augmentation_strength": FloatDistribution(0.0, 1.0),
    },
    # scikit-learn's digits and timm's small network for tests
    smoke={
        "dataset": "digits",
        "dataset_options": {"size": 32, "channels": 3},
        "model": "timm:test_resnet",
        "merges": ["linear"],
        "epochs": 1,
        "autocast": "",
        "base": {"steps": 30, "learning_rate": 0.01, "momentum": 0.9, "batch_size": 32, "seed": 0},
        "batch_size": IntDistribution(16, 64, log=True),
    },
)
