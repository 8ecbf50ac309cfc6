"""Curve of an objective over noise: smoother, interval of its optimum, effects of single knobs."""
