"""The sampler that targets a noise: surrogate, acquisition, exponents."""
