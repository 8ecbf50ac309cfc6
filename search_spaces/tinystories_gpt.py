"""TinyStories with a GPT of two layers and AdamW, the language model of the paper, for a GPU.

`sweeper run tinystories_gpt --data ROOT --set dataset_options.tokenizer=FOLDER` reads `text/TinyStories-train.txt` and
`text/TinyStories-valid.txt` under the data root. Without a tokenizer folder the tokens are bytes.
"""

from optuna.distributions import FloatDistribution, IntDistribution

from search_spaces._space import Space

SPACE = Space(
    doc="branch pairs of two-layer GPTs off a trunk on TinyStories with AdamW and anneal them",
    budget="12,000 steps per pair (trunk 6,000, children 3,000 each), 0.8 billion tokens at B = 128: for a GPU",
    source="two-layer GPT on TinyStories of arXiv 2510.04686; width, heads and steps are ours",
    fixed={
        "dataset": "tinystories",
        "dataset_options": {"context": 512, "tokenizer": "bytes", "val": 1024, "test": 2048},
        "model": "gpt",
        "model_options": {"layers": 2, "heads": 8, "width": 512},
        "optimizer": "adamw",
        "protocol": "branch",
        "branch_step": 6000,
        "steps": 3000,
        "warmup": 0.1,
        "decay": 0.5,
        "autocast": "bfloat16",
        "base": {"steps": 0},
    },
    knobs={
        "learning_rate": FloatDistribution(1e-5, 1e-2, log=True),
        "batch_size": IntDistribution(16, 512, log=True),
        "weight_decay": FloatDistribution(1e-3, 1.0, log=True),
        "beta2": FloatDistribution(0.9, 0.999),
    },
    # sentences of a grammar, because the corpus is a file
    smoke={
        "dataset": "sentences",
        "dataset_options": {"context": 16, "train": 128, "val": 32, "test": 32},
        "model_options": {"layers": 1, "heads": 2, "width": 16},
        "merges": ["linear"],
        "branch_step": 20,
        "steps": 10,
        "autocast": "",
        "batch_size": IntDistribution(8, 32, log=True),
    },
)
