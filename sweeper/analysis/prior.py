"""Prior of the best noise, read from finished sweeps."""

from __future__ import annotations

from collections.abc import Callable

from sweeper.config.fields import PriorNoise
from sweeper.errors import SpecError
from sweeper.storage.location import place_of


def read_prior(
    folder: str, objective: str, noise: str, trainable: str, say: Callable[[str], None] = lambda _: None
) -> PriorNoise:
    """Return what a sweep's folder says about the optimal noise of an objective.

    Args:
        folder: The run folder.
        objective: Of the sweep that asks.
        noise: Its definition of the noise.
        trainable: What its trials are, `pair` or `synthetic`.
        say: Called with a line on what makes the prior doubtful.

    Raises:
        SpecError: No sweep, no trial with this noise, or no optimum; the message says what to do.
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
    found = fit_regime(trials, objective, noise, by_knob=False)
    place = place_of(folder)
    source = str(place.local.absolute()) if place.local else place.uri
    if found.optimum is None or found.low is None or found.high is None:
        raise SpecError(f"{folder} has no optimum for {objective}: {found.message}; run more trials there, or {way}")
    if not found.interior:
        say(f"warning: the best noise in {folder} is not clearly inside its tried range; it is a weak prior")
    if others := sorted(set(trials["trainable"].to_pylist()) - {trainable}):
        say(f"warning: the trials in {folder} are {', '.join(others)}, not {trainable}: their optimum may be another's")
    return PriorNoise(best=found.optimum, low=found.low, high=found.high, source=source)
