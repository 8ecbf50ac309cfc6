"""Default noise of a sweep, by its optimizer."""

from __future__ import annotations

from search_spaces import Space
from search_spaces._conditions import in_order
from sweeper.config.space import corners
from sweeper.config.spec import SweepSpec
from sweeper.search.noise_targets import (
    MEASURED_USUAL,
    default_noise,
    list_targets,
)
from trainables.training.optimizers import family


def with_usual_noise(spec: SweepSpec, space: Space) -> SweepSpec:
    """Return a sweep with the noise definition that it names, or the one that follows from the optimizers."""
    if "noise" in spec.model_fields_set:
        return spec
    return spec.model_copy(update={"noise": _usual_noise(spec, space)})


def _usual_noise(spec: SweepSpec, space: Space) -> str:
    families = {family(name) for name in _optimizers(space)}
    usual = {default_noise(f) for f in families}
    known = list_targets(families)
    if len(usual) == 1:
        return usual.pop()
    # no definition holds for all of them: one that is measured can at least be shown
    return next(iter(known), MEASURED_USUAL if spec.sampler != "noise" else sorted(usual)[0])


def _optimizers(space: Space) -> set[str]:
    """Return the optimizers of a space's trials."""
    if "optimizer" not in space.knobs:
        return {space.build(next(corners(space))).optimizer}
    deciding = in_order(["optimizer"], space.conditions)
    corner = {tuple(params.get(k) for k in deciding): params for params in corners(space)}
    return {space.build(params).optimizer for params in corner.values()}
