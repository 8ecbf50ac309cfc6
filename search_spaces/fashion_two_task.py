"""Two tasks: child A learns Fashion-MNIST, child B MNIST, from one base; their task vectors are added."""

from search_spaces import fashion_cnn

SPACE = fashion_cnn.SPACE.override(
    parameters={},
    fixed={
        "pair_kind": "two_task",
        "dataset_b": "mnist",
        "dataset_b_options": {"train": 4000, "val": 1000, "test": 2000},
        "merges": ["linear", "task_arithmetic", "ties"],
    },
    doc="fine-tune small GroupNorm CNNs on Fashion-MNIST and MNIST, separate heads, and add their task vectors",
    budget="4 epochs of 4,000 images per child and 22 merges on two test sets: minutes per pair on one CPU core",
    source="task arithmetic of arXiv 2212.04089 and TIES of 2306.01708 in the setting of arXiv 2510.04686",
)
