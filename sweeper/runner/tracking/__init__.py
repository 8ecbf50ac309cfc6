"""Trackers: TensorBoard and Weights & Biases get one run for each finished trial of a sweep."""
