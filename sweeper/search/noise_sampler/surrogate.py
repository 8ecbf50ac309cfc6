"""Surrogate of a study: a Gaussian process over log noise, one over log step size and one over all knobs.

`sweeper.search.noise_sampler.kernel` defines the model. scikit-learn does regression, prediction and marginal
likelihood. The hyperparameters are the maximum a posteriori, and Laplace's approximation draws around it.
Source: Rasmussen & Williams 2006, eq. 2.30 (posterior), section 5.5 (Laplace).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from scipy import stats
from scipy.linalg import solve_triangular
from scipy.optimize import minimize
from sklearn import config_context
from sklearn.gaussian_process import GaussianProcessRegressor
from threadpoolctl import ThreadpoolController

from sweeper.search.noise_sampler.encoding import Array, Mask
from sweeper.search.noise_sampler.kernel import NoiseKernel, Prior, Theta, make_table
from sweeper.search.noise_sampler.level_sets import Points
from sweeper.search.noise_sampler.loss_transform import subsample

_JITTER, _FEWEST_TO_TELL = 1e-6, 8
_STEPS = 30  # of an ask, which must be fast
_THOROUGH_STEPS, _STARTS = 200, 6  # of an explanation
_CLEAR_GAIN = 5.0  # nats of log posterior, a Bayes factor of 150

_Likelihood = Callable[[Array], tuple[float, Array]]


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


def one_thread() -> Any:
    """Return a context in which linear algebra runs in one thread.

    The matrices are small and the other cores train. More threads would wait for each other and change the rounding.
    """
    return _libraries().limit(limits=1, user_api="blas")


@dataclass(frozen=True)
class Surrogate:
    """The fitted surrogate.

    Attributes:
        points: The n observed points.
        model: scikit-learn's regression on all points.
        trained: The regression on fewer points that set the hyperparameters.
    """

    points: Points
    model: GaussianProcessRegressor
    trained: GaussianProcessRegressor

    @property
    def kernel(self) -> NoiseKernel:
        """The fitted kernel."""
        kernel: Any = self.model.kernel_
        return kernel

    @property
    def theta(self) -> Theta:
        """The hyperparameters."""
        return self.kernel.values

    def axis(self, points: Points) -> Array:
        """Return phi, the refined log noise, per point, shape (n,)."""
        return self.kernel.phi(make_table(points))

    @property
    def judged(self) -> Points:
        """The observed points with the full training budget; all points, at that budget, if there are none."""
        full = self.points[self.points.proxy == 0]
        return full if len(full) else self.points.with_proxy(0.0)

    def predict(self, points: Points) -> tuple[Array, Array]:
        """Return mean and sd of c + f + s + g at the points, without seed noise, each of shape (n,)."""
        mean, sd = self.model.predict(make_table(points), return_std=True)
        return mean, np.maximum(sd, 1e-6)

    def covariance(self, a: Points, b: Points) -> Array:
        """Return the posterior covariance of c + f + s + g between two sets of points, shape (n, m)."""
        seen, one, other = make_table(self.points), make_table(a), make_table(b)
        left = solve_triangular(self.model.L_, self.kernel(seen, one), lower=True)
        right = solve_triangular(self.model.L_, self.kernel(seen, other), lower=True)
        return self.kernel(one, other) - left.T @ right

    def condition_on(self, pending: Points) -> Surrogate:
        """Return the surrogate as if each pending point had returned its posterior mean (kriging believer).

        The mean stays the same, and the sd shrinks around the pending points.
        Source: Ginsbourger, Le Riche & Carraro 2010, "Kriging is well-suited to parallelize optimization", section 4.
        """
        if not len(pending):
            return self
        rows = np.concatenate([make_table(self.points), make_table(pending)])
        values: Any = np.concatenate([self.model.y_train_, self.model.predict(make_table(pending))])
        spread = None if self.kernel.spread is None else np.append(self.kernel.spread, np.ones(len(pending)))
        kernel = NoiseKernel(np.array(self.kernel.theta), self.kernel.prior, self.kernel.nominal, spread)
        return Surrogate(self.points + pending, regression(kernel, rows, values), self.trained)

    def variants(self, count: int, rng: np.random.Generator) -> list[Surrogate]:
        """Return surrogates of the same observations with hyperparameters from their posterior."""
        sds, axes = self.laplace()
        at, (low, high), rows = np.array(self.kernel.theta), self.kernel.bounds.T, make_table(self.points)
        values: Any = self.model.y_train_
        out: list[Surrogate] = []
        for _ in range(count):
            drawn = np.clip(at + axes @ (sds * rng.standard_normal(len(at))), low, high)
            kernel = NoiseKernel(drawn, self.kernel.prior, self.kernel.nominal, self.kernel.spread)
            out.append(Surrogate(self.points, regression(kernel, rows, values), self.trained))
        return out

    def laplace(self) -> tuple[Array, Array]:
        """Return sds, shape (p,), and axes, shape (p, p), of the hyperparameters' posterior by Laplace's approximation.

        Source: Rasmussen & Williams 2006, section 5.5, at the maximum, with its Hessian by differences of the gradient.
        """
        at, prior, step = np.array(self.kernel.theta), self.kernel.prior, 1e-3

        def slope(v: Array) -> Array:
            likelihood: Any = self.trained.log_marginal_likelihood(v, eval_gradient=True, clone_kernel=False)
            return -np.asarray(likelihood[1]) + (v - prior.mean) / prior.sd**2

        level = slope(at)
        hessian = np.array([(slope(at + shift) - level) / step for shift in step * np.eye(len(at))])
        slope(at)  # restores the hyperparameters of the shared kernel
        values, axes = np.linalg.eigh((hessian + hessian.T) / 2)
        # a direction without curvature keeps its prior uncertainty
        return 1.0 / np.sqrt(np.maximum(values, 1.0 / prior.sd.max() ** 2)), axes

    def left_out_means(self) -> Array:
        """Return the prediction of each observation by the others, shape (n,), with the hyperparameters of all.

        Source: Rasmussen & Williams 2006, eq. 5.12.
        """
        values: Any = self.model.y_train_
        inverse = solve_triangular(self.model.L_, np.eye(len(values)), lower=True)
        return values - self.model.alpha_ / (inverse**2).sum(axis=0)

    def noise_share(self) -> float:
        """Return the share of noise in the variance of the means at the observed points, in [0, 1].

        In the additive model it is the share of f beside the rest.
        """
        if not self.kernel.prior.has_noise:
            return 0.0
        seen, full = make_table(self.points), make_table(self.points.with_proxy(0.0))
        phi = self.kernel.phi(full)
        if not self.kernel.prior.additive:  # f and g both vary along noise: the smooth curve through the means counts
            mean: Any = self.model.predict(full)
            k, gap = self.kernel.f(phi, phi), mean - mean.mean()
            curve = k @ np.linalg.solve(k + 0.1 * self.theta.amplitude**2 * np.eye(len(phi)), gap)
            left = float(((gap - curve) ** 2).mean())
            return max(0.0, 1.0 - left / float(gap.var())) if float(gap.var()) > 1e-12 else 0.0
        link = self.kernel.link(full, seen) if self.kernel.prior.proxied else 1.0
        f = (link * self.kernel.f(phi, self.kernel.phi(seen))) @ self.model.alpha_
        g = (link * self.kernel.rest(full, seen)) @ self.model.alpha_
        total = float(f.var() + g.var())
        return float(f.var()) / total if total > 1e-12 else 0.0

    def predicts(self) -> bool:
        """Return whether it predicts left-out observations better than the others' mean does, one-sided p < .05."""
        y: Any = self.model.y_train_
        n = len(y)
        if n < _FEWEST_TO_TELL or float(np.ptp(y)) <= 0:
            return False
        errors = y - self.left_out_means()
        gains = ((y - y.mean()) * n / (n - 1)) ** 2 - errors**2
        sd = float(gains.std(ddof=1))
        return bool(gains.mean() > stats.t.ppf(0.95, n - 1) * sd / np.sqrt(n)) if sd > 0 else bool(gains.mean() > 0)


def fit(
    points: Points, values: Array, nominal: Mask, prior: Prior, limit: int = 90, thorough: bool = False
) -> Surrogate:
    """Return the surrogate fitted to observed points.

    Args:
        points: Observed points, n >= 1.
        values: Their values, shape (n,), of unit scale, smaller is better.
        nominal: Which knobs are nominal, shape (d,), bool.
        prior: Priors of the hyperparameters; it also decides on f and s.
        limit: Maximum number of points for the hyperparameters, half of them the best ones and the rest an even share
            of the others. The posterior uses all points.
        thorough: Whether further starts and convergence replace the first fit if they gain much. One start can end in
            a poor local optimum, most of all if the observations hardly scatter.
    """
    rows, some = make_table(points), subsample(values, limit)
    trained = regression(
        NoiseKernel(prior.mean, prior, nominal), rows[some], values[some], _MaximumAPosteriori(prior, thorough)
    )
    model = trained if len(some) == len(values) else regression(trained.kernel_, rows, values)
    return Surrogate(points, model, trained)


def regression(kernel: Any, rows: Array, values: Array, optimizer: Any = None) -> GaussianProcessRegressor:
    """Return scikit-learn's regression on rows of `make_table`; without an optimizer the kernel stays as it is."""
    with config_context(assume_finite=True, skip_parameter_validation=True):
        return GaussianProcessRegressor(kernel, alpha=_JITTER, optimizer=optimizer).fit(rows, values)


@dataclass(frozen=True)
class _MaximumAPosteriori:
    """Optimizer for scikit-learn that adds the prior to the marginal likelihood."""

    prior: Prior
    thorough: bool = False

    def __call__(self, likelihood: _Likelihood, start: Array, bounds: Array) -> tuple[Array, float]:
        prior = self.prior

        def objective(v: Array) -> tuple[float, Array]:
            value, gradient = likelihood(v)
            offset = (v - prior.mean) / prior.sd
            return float(value + 0.5 * offset @ offset), gradient + offset / prior.sd

        def descend(at: Array, steps: int) -> Any:
            return minimize(objective, at, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": steps})

        fit = descend(start, _STEPS)
        if self.thorough:
            drawn = np.random.default_rng(0).standard_normal((_STARTS - 1, len(start)))
            others = [descend(np.clip(prior.mean + prior.sd * z, *np.asarray(bounds).T), _STEPS) for z in drawn]
            best = descend(min([fit, *others], key=lambda f: float(f.fun)).x, _THOROUGH_STEPS)
            # few steps from the prior's mean overfit less than the maximum does, so only a clear gain counts
            fit = best if best.fun < fit.fun - _CLEAR_GAIN else fit
        return fit.x, float(fit.fun)
