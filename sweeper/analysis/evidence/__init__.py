"""Evidence for one noise: shape, exponents, ranking of noises, verdict."""
