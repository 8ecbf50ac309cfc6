"""Tiny Shakespeare in bytes with a GPT of two layers and AdamW: tens of seconds per pair on one CPU core.

`sweeper run shakespeare_gpt --data ROOT` reads `text/tinyshakespeare.txt` under the data root. It needs the extra
`sweeper[text]`.
"""

from optuna.distributions import FloatDistribution, IntDistribution

from search_spaces._space import Space

SPACE = Space(
    doc="fine-tune pairs of two-layer GPTs of bytes on Tiny Shakespeare with AdamW, one epoch from a base of 500 steps",
    budget="2,048 windows of 32 bytes per child: tens of seconds per pair on one CPU core",
    source="two-layer GPT of arXiv 2510.04686 in small; AdamW's noise after Malladi et al. 2022, arXiv 2205.10287",
    fixed={
        "dataset": "tinyshakespeare",
        "dataset_options": {"context": 32, "train": 2048, "val": 256, "test": 512},
        "model": "gpt",
        "model_options": {"layers": 2, "heads": 4, "width": 64},
        "optimizer": "adamw",
        "epochs": 1,
        "base": {"steps": 500, "learning_rate": 0.002, "batch_size": 32, "optimizer": "adamw", "seed": 0},
        "loss_ceiling": 3.0,
    },
    knobs={
        "learning_rate": FloatDistribution(1e-4, 3e-2, log=True),
        "batch_size": IntDistribution(8, 64, log=True),
        "weight_decay": FloatDistribution(1e-3, 1.0, log=True),
        "beta2": FloatDistribution(0.9, 0.999),
    },
    # sentences of a grammar, because the corpus is a file
    smoke={
        "dataset": "sentences",
        "dataset_options": {"context": 16, "train": 128, "val": 32, "test": 32},
        "model_options": {"layers": 1, "heads": 2, "width": 16},
        "merges": ["linear"],
        "base": {"steps": 20, "learning_rate": 0.01, "batch_size": 16, "optimizer": "adamw", "seed": 0},
        "loss_ceiling": 0.0,
        "batch_size": IntDistribution(8, 32, log=True),
    },
)
