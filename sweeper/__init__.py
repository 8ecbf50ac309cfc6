"""How it runs: sweeps on Ray Tune or in this process, the sampler, the regime, the store, the command line."""
