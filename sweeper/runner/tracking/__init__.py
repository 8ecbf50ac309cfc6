"""Finished trials of a sweep for other programs: TensorBoard, Weights & Biases, optuna-dashboard."""
