"""The race of samplers: problems with known answers, contestants, one run, and what many runs say."""
