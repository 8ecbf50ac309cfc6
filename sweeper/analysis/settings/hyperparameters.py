"""Draws from the posterior of a surrogate's hyperparameters, and of how the seed noise depends on the score.

The most probable hyperparameters promise too much: a surface as smooth as the data allow has small errors everywhere.
And pairs with a large gain scatter several times as much as those without one, which are most of a sweep: with one size
of the noise everywhere, the surrogate takes the luckiest pair at its word.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from sweeper.search.noise_sampler.encoding import Array
from sweeper.search.noise_sampler.kernel import NoiseKernel, make_table
from sweeper.search.noise_sampler.surrogate import Surrogate, regression

_STEPS, _WARM_UP, _DRAWS = 1600, 400, 24
_ADAPT, _MANY, _FEW = 50, 0.3, 0.18  # steps between changes of the step size, and accepted shares that change it
_SLOPE_SD = 0.75  # prior: from the mean score to one 1.5 sds better, noise changes by up to a factor of 3
_SLOPE_STEP = 0.4
_FAR = 2.0  # sds from the mean beyond which the noise stays the same


def draw_models(model: Surrogate, rng: np.random.Generator) -> list[Surrogate]:
    """Return surrogates of the same observations, with hyperparameters and noise from their joint posterior.

    The log of the seed noise is linear in the score that the other observations predict; its slope has a normal prior
    around 0. A random-walk Metropolis sampler walks from the most probable hyperparameters, with steps shaped by
    Laplace's approximation. Of many observations, those that set the hyperparameters count.

    Args:
        model: The surrogate at the most probable hyperparameters, with the same noise everywhere.
        rng: Generator of the walk.

    Source: Roberts, Gelman & Gilks 1997 (step size); Kersting et al. 2007, "Most likely heteroscedastic Gaussian
        process regression" (noise from left-out predictions), with a parametric noise.
    """
    prior, nominal = model.kernel.prior, model.kernel.nominal
    away = _find_distances(model)
    own = Surrogate(model.points, model.trained, model.trained)
    trained = NoiseKernel(np.array(model.kernel.theta), prior, nominal, np.ones(len(model.trained.y_train_)))
    walker = regression(trained, np.asarray(model.trained.X_train_), np.asarray(model.trained.y_train_))
    near, kernel = _find_distances(own), _kernel_of(walker)
    kernel.keep_differences(np.asarray(walker.X_train_))

    def density(at: Array) -> float:
        kernel.spread = np.exp(-at[-1] * near)
        likelihood: Any = walker.log_marginal_likelihood(at[:-1], clone_kernel=False)
        offset = np.append((at[:-1] - prior.mean) / prior.sd, at[-1] / _SLOPE_SD)
        return float(likelihood) - 0.5 * float(offset @ offset)

    sds, axes = model.laplace()
    low, high = model.kernel.bounds.T
    rows, values = make_table(model.points), np.asarray(model.model.y_train_)
    at = np.append(model.kernel.theta, 0.0)
    level, scale, accepted = density(at), 2.0 / np.sqrt(len(at)), 0
    out: list[Surrogate] = []
    for step in range(1, _STEPS + 1):
        move = np.append(axes @ (sds * rng.standard_normal(len(sds))), _SLOPE_STEP * rng.standard_normal())
        ahead, chance = at + scale * move, np.log(rng.random())
        inside = bool(((ahead[:-1] >= low) & (ahead[:-1] <= high)).all())
        if inside and chance < (height := density(ahead)) - level:
            at, level, accepted = ahead, height, accepted + 1
        if step <= _WARM_UP:
            if step % _ADAPT == 0:
                share, accepted = accepted / _ADAPT, 0
                scale *= 1.3 if share > _MANY else 0.75 if share < _FEW else 1.0
        elif (step - _WARM_UP) % ((_STEPS - _WARM_UP) // _DRAWS) == 0:
            drawn = NoiseKernel(at[:-1], prior, nominal, np.exp(-at[-1] * away))
            out.append(Surrogate(model.points, regression(drawn, rows, values), model.trained))
    return out


def _kernel_of(model: Any) -> NoiseKernel:
    return model.kernel_


def _find_distances(model: Surrogate) -> Array:
    # distances of the left-out predictions from the scores' mean, in sds of the scores, shape (n,)
    return np.clip(model.left_out_means(), -_FAR, _FAR)
