"""Fashion-MNIST (28x28, read from a data root) with the same CNN."""

from search_spaces import digits_cnn

SPACE = digits_cnn.SPACE.override(
    parameters={},
    fixed={
        "dataset": "fashion_mnist",
        "dataset_options": {"train": 4000, "val": 1000, "test": 2000},
        "model_options": {"stem_stride": 2},
        "epochs": 4,
        "base": {"steps": 120, "learning_rate": 0.02, "momentum": 0.9, "batch_size": 32, "seed": 0},
    },
    doc="fine-tune pairs of small GroupNorm CNNs on 4,000 images of Fashion-MNIST, 4 epochs from a base of 120 steps",
    budget="4 epochs of 4,000 images per child: tens of seconds per pair on one CPU core",
)
