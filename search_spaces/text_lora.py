"""LoRA adapters on a language model from a local folder, with AdamW; its noise is `adam_sde`.

`sweeper run text_lora --set model=hf:FOLDER --set dataset_options.tokenizer=FOLDER --set dataset_options.path=FILE`
reads the model and its tokenizer from a folder of transformers and the text from a file or folder. It needs the extra
`sweeper[text]`.
"""

from optuna.distributions import FloatDistribution, IntDistribution

from search_spaces._space import Space

SPACE = Space(
    doc="fine-tune pairs of LoRA adapters of a language model (model and dataset_options.path by --set) with AdamW",
    budget="2,048 windows of 256 tokens per child: seconds to minutes per pair on a GPU, by the size of the model",
    source="LoRA of Hu et al. 2021, arXiv 2106.09685; AdamW's noise after Malladi et al. 2022, arXiv 2205.10287",
    fixed={
        "dataset": "text",
        "dataset_options": {"path": "corpus.txt", "tokenizer": "model", "context": 256, "train": 2048, "val": 256,
                            "test": 512},
        "model": "hf:model",
        "adapter": {"kind": "lora", "r": 8},
        "optimizer": "adamw",
        "epochs": 1,
        "base": {"steps": 0},
    },
    needs={"model": "hf:FOLDER", "dataset_options.tokenizer": "FOLDER", "dataset_options.path": "FILE"},
    # learning rates of factors are about ten times those of weights
    knobs={
        "learning_rate": FloatDistribution(1e-5, 1e-2, log=True),
        "batch_size": IntDistribution(8, 64, log=True),
        "weight_decay": FloatDistribution(1e-3, 1.0, log=True),
        "beta2": FloatDistribution(0.9, 0.999),
    },
    # a small GPT on sentences of a grammar, because model and corpus are files
    smoke={
        "dataset": "sentences",
        "dataset_options": {"context": 16, "train": 256, "val": 128, "test": 128},
        "model": "gpt",
        "model_options": {"layers": 1, "heads": 2, "width": 32},
        "adapter": {"kind": "lora", "r": 4},
        "epochs": 3,
        "merges": ["linear"],
        "base": {"steps": 120, "learning_rate": 0.01, "batch_size": 16, "optimizer": "adamw", "seed": 0},
        # below, children stay at the base
        "learning_rate": FloatDistribution(1e-3, 0.1, log=True),
        "batch_size": IntDistribution(8, 32, log=True),
    },
)  # fmt: skip
