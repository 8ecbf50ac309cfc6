"""digits_cnn with 20 % symmetric label noise in training, which makes the gain curve clearly visible."""

from search_spaces import digits_cnn

SPACE = digits_cnn.SPACE.override(
    parameters={},
    fixed={
        "dataset_options": {"label_noise": 0.2},
        "base": {"steps": 30, "learning_rate": 0.02, "momentum": 0.9, "batch_size": 32, "seed": 0},
    },
    doc="digits_cnn with 20 % symmetric noise on the training labels and a base of 30 steps",
)
