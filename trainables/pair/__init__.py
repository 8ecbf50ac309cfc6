"""One trial: children trained with one set of hyperparameters, merged, and every merge scored."""
