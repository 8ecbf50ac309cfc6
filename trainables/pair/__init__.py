"""Trials: train children with one set of hyperparameters, merge them, score every merge."""
