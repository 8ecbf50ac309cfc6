"""Prior of the best noise, read from finished sweeps."""

from __future__ import annotations

from collections.abc import Callable

from sweeper.config.fields import PriorNoise
from sweeper.config.prepared import PreparedSweep
from sweeper.errors import SpecError
from sweeper.storage.location import place_of


def read_priors(
    sweep: PreparedSweep,
    say: Callable[[str], None] = lambda _: None,
    keep: Callable[[str], bool] = lambda _: False,
) -> tuple[PriorNoise | str, ...]:
    """Return the priors of a sweep with a noise, those of run folders read from them; see `read_prior`.

    Args:
        sweep: The sweep; `sweeper.config.prepared.set_defaults` sets its noise.
        say: Function that receives warnings about the priors.
        keep: Returns whether a run folder stays as it is.
    """
    spec, trainable = sweep.spec, sweep.corners[0].trainable
    return tuple(
        p if isinstance(p, PriorNoise) or keep(p) else read_prior(p, spec.objective, spec.noise, trainable, say)
        for p in spec.prior
    )


def read_prior(
    folder: str, objective: str, noise: str, trainable: str, say: Callable[[str], None] = lambda _: None
) -> PriorNoise:
    """Return a prior of the best noise of an objective from the folder of a finished sweep.

    Args:
        folder: The run folder.
        objective: Objective of the new sweep.
        noise: Noise definition of the new sweep.
        trainable: Trainable of the new sweep, `pair` or `synthetic`.
        say: Function that receives warnings about the prior.

    Raises:
        SpecError: The folder holds no sweep, no trial with this noise, or no optimum.
    """
    from sweeper.analysis.regime import fit_regime
    from sweeper.storage.run_folder import stored_spec
    from sweeper.storage.tables import read_trials

    stored_spec(folder)
    trials = read_trials(folder)
    way = f"leave {folder} out of the prior"
    if trials.num_rows and not any(v is not None for v in trials[f"noise_{noise}"].to_pylist()):
        optimizers = ", ".join(sorted(set(trials["optimizer"].to_pylist())))
        raise SpecError(f"noise {noise!r} is not defined for the trials in {folder} (optimizer {optimizers}); {way}")
    regime = fit_regime(trials, objective, noise, by_knob=False)
    place = place_of(folder)
    source = str(place.local.absolute()) if place.local else place.uri
    if regime.optimum is None or regime.low is None or regime.high is None:
        raise SpecError(f"{folder} has no optimum for {objective}: {regime.message}; run more trials there, or {way}")
    if not regime.interior:
        say(f"warning: the best noise in {folder} is not clearly inside the tried range; the prior is weak")
    if others := sorted(set(trials["trainable"].to_pylist()) - {trainable}):
        say(f"warning: the trials in {folder} are {', '.join(others)}, not {trainable}; their optimum may differ")
    return PriorNoise(best=regime.optimum, low=regime.low, high=regime.high, source=source)
