"""Default noise of a sweep: it follows from the optimizers."""

from __future__ import annotations

from sweeper.config.prepared import PreparedSweep
from sweeper.search.noise_targets import MEASURED_USUAL, default_noise, list_targets
from trainables.training.optimizers import family


def set_default_noise(sweep: PreparedSweep) -> PreparedSweep:
    """Return a sweep whose spec names a noise: its own, or the default of its optimizers."""
    if "noise" in sweep.spec.model_fields_set:
        return sweep
    families = {family(trial.optimizer) for trial in sweep.corners}
    defaults = {default_noise(f) for f in families}
    if len(defaults) == 1:
        return sweep.with_spec(noise=defaults.pop())
    # no default holds for all optimizers; the table can at least show a measured noise
    fallback = MEASURED_USUAL if sweep.spec.sampler != "noise" else min(defaults)
    return sweep.with_spec(noise=next(iter(list_targets(families)), fallback))
