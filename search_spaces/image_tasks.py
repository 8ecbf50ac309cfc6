"""Three tasks in one network: Fashion-MNIST, MNIST and digits at 28x28, merged from one child per task."""

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from search_spaces._space import Space

_SUBSET = {"train": 4000, "val": 1000, "test": 2000}

SPACE = Space(
    doc="fine-tune one MLP per task on Fashion-MNIST, MNIST and digits, with own heads, and merge the backbones",
    budget="4 epochs per child on 4,000, 4,000 and 720 images, and 33 merges: tens of seconds on one CPU core",
    source="task arithmetic of arXiv 2212.04089, TIES of 2306.01708, RegMean of 2212.09849",
    fixed={
        "pair_kind": "tasks",
        "datasets": [
            {"name": "fashion_mnist", "options": _SUBSET},
            {"name": "mnist", "options": _SUBSET},
            {"name": "digits", "options": {"size": 28}},
        ],
        "model": "mlp",
        "model_options": {"widths": [256, 128]},
        "epochs": 4,
        "base": {"steps": 120, "learning_rate": 0.02, "momentum": 0.9, "batch_size": 32, "seed": 0},
        # without fisher, whose 15,360 gradients make a trial of 8 s of processor time 26 s long
        "merges": ["linear", "task_arithmetic", "taskwise_arithmetic", "ties", "dare", "regmean"],
        "accuracy_floor": 0.5,
    },
    knobs={
        "learning_rate": FloatDistribution(3e-4, 3.0, log=True),
        "batch_size": IntDistribution(8, 128, log=True),
        "momentum": CategoricalDistribution((0.0, 0.5, 0.9, 0.95)),
        "weight_decay": FloatDistribution(1e-5, 3e-2, log=True),
    },
    smoke={
        # the same digits with other splits and label noise, because other data sets need files
        "datasets": [
            {"name": "digits"},
            {"name": "digits", "options": {"split_seed": 1}},
            {"name": "digits", "options": {"label_noise": 0.3}},
        ],
        "model_options.widths": [64, 32],
        "epochs": 2,
        "base": {"steps": 150, "learning_rate": 0.02, "momentum": 0.9, "batch_size": 32, "seed": 0},
        # few children diverge here, and parents and merges differ
        "learning_rate": FloatDistribution(1e-3, 0.2, log=True),
        "batch_size": IntDistribution(8, 64, log=True),
        "momentum": CategoricalDistribution((0.0, 0.5, 0.9)),
    },
)
