"""Surrogate of a study: a Gaussian process over log noise, one over log step size and a smaller one over all knobs.

    y(h) = c + f(phi(h)) + s(psi(h)) + g(h) + e,   phi(h) = ln S(h) + factors(h) @ tilt,   psi(h) = ln(eta / (1 - mu))

``f``  Matérn 5/2 over phi: what the noise explains
``s``  Matérn 5/2 over psi: the limit of stable steps, which no noise scale holds
``g``  Matérn 5/2 over the unit cube with one length per knob, small a priori: what neither explains
``c``  constant, standard normal a priori (the target is standardised), integrated out
``e``  seed noise of one size

Regression, prediction and marginal likelihood are scikit-learn's; its kernels know no learnt projection and no nominal
knobs, so the kernel is ours. Hyperparameters are set by maximum a posteriori. Where no noise varies f is absent, where
no learning rate does s is.
Source: additive and ARD kernels as in Rasmussen & Williams 2006, eq. 2.30 (posterior), 4.17 (Matérn).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from scipy.linalg import solve_triangular
from scipy.optimize import minimize
from sklearn import config_context
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Kernel
from threadpoolctl import ThreadpoolController

from .knobs import Array, Mask, Rows
from .noise_axis import Points

_ROOT5 = 5.0**0.5
_JITTER = 1e-6
_STEPS = 30
_SCALARS = 6

_Likelihood = Callable[[Array], tuple[float, Array]]


@cache
def _libraries() -> ThreadpoolController:
    return ThreadpoolController()


def one_thread() -> Any:
    """Return a context in which linear algebra runs in one thread.

    The matrices are small and the other cores train: more threads would wait for each other, and round otherwise.
    """
    return _libraries().limit(limits=1, user_api="blas")


@dataclass(frozen=True)
class Taming:
    """A monotone map of losses to values of mean 0 and sd 1 without heavy tails, for a Gaussian process.

    Collapsed pairs lose by orders of magnitude. In units of the distance from the median to the 10 % quantile, what
    lies above the median is squeezed by tanh to at most 2, what lies more than 5 below by a logarithm: bad stays bad
    and ordered, but no longer drowns the good half.
    """

    scale: float
    middle: float
    spread: float
    mean: float = 0.0
    sd: float = 1.0

    @classmethod
    def of(cls, losses: Array) -> Taming | None:
        """Return the map for these finite losses, shape (n,), smaller is better; None where they are all equal."""
        scale = float(np.abs(losses).max())
        if scale == 0 or float(np.ptp(losses / scale)) <= 1e-12:
            return None
        x = losses / scale  # so that no difference overflows
        middle = float(np.median(x))
        spread = middle - float(np.quantile(x, 0.1)) or middle - float(x.min()) or float(np.ptp(x))
        raw = cls(scale, middle, spread)
        z = raw(losses)
        return cls(scale, middle, spread, float(z.mean()), float(z.std()))

    def __call__(self, losses: Array) -> Array:
        """Return the values of losses."""
        x = (losses / self.scale - self.middle) / self.spread
        x = np.where(x > 0, 2.0 * np.tanh(x / 2.0), np.maximum(x, -5.0) - np.log1p(np.maximum(-5.0 - x, 0.0)))
        return (x - self.mean) / self.sd

    def losses(self, values: Array) -> Array:
        """Return the losses of values; what no loss reaches counts as the nearest that one does."""
        x = np.asarray(values) * self.sd + self.mean
        bad = 2.0 * np.arctanh(np.clip(x / 2.0, 0.0, 0.995))
        good = np.maximum(x, -5.0) - np.expm1(np.maximum(-5.0 - x, 0.0))
        return (np.where(x > 0, bad, good) * self.spread + self.middle) * self.scale


def tame(losses: Array) -> Array:
    """Return losses as `Taming` maps them, shape (n,); zeros where they are all equal."""
    taming = Taming.of(losses)
    return np.zeros_like(losses) if taming is None else taming(losses)


def matern(distance: Array) -> tuple[Array, Array]:
    """Return the Matérn 5/2 correlation and minus its derivative divided by the distance, both of the same shape."""
    scaled = _ROOT5 * distance
    decay = np.exp(-scaled)
    return (1.0 + scaled + scaled * scaled / 3.0) * decay, 5.0 / 3.0 * (1.0 + scaled) * decay


@dataclass(frozen=True)
class Theta:
    """Hyperparameters; amplitudes in units of the standardised target, lengths of f and s in nats."""

    amplitude: float
    length: float
    step_amplitude: float
    step_length: float
    residual: float
    seed_noise: float
    lengths: Array
    tilt: Array

    @classmethod
    def unpack(cls, v: Array, d: int) -> Theta:
        """Read the vector that the optimizer sees: logarithms, and the tilt as it is."""
        e = np.exp(v[: _SCALARS + d])
        return cls(e[0], e[1], e[2], e[3], e[4], e[5], e[_SCALARS:], v[_SCALARS + d :])


@dataclass(frozen=True)
class Prior:
    """Independent normal priors of the optimizer's vector: mean and sd, both shape (6 + d + k,), of d `knobs`."""

    mean: Array
    sd: Array
    knobs: int
    has_noise: bool
    has_step: bool

    @classmethod
    def of(cls, d: int, tilt_sd: Array, span: float = 0.0, step_span: float = 0.0) -> Prior:
        """Return the prior for d knobs.

        Args:
            d: Number of knobs.
            tilt_sd: Prior sd of each refined exponent, shape (k,); small, since the definition is the first guess.
            span: Reachable range of log noise, 0 where none varies; a hump is a fifth of it wide, give or take a
                factor of two.
            step_span: Range of the log step size, 0 where none varies.
        """
        has_noise, has_step = span > 0, step_span > 0
        # a plain space has no f, so g is no residual and gets the amplitude of the whole
        scalars = [
            1.0,
            0.2 * span if has_noise else 1.0,
            0.3,
            0.3 * step_span if has_step else 1.0,
            0.3 if has_noise else 1.0,
            0.1,
        ]
        lengths = np.full(d, 0.7 * max(d, 1) ** 0.25)  # distances grow with the number of knobs
        mean = np.concatenate([np.log(scalars), np.log(lengths), np.zeros(len(tilt_sd))])
        sd = np.concatenate([[0.7, 0.7, 0.7, 0.7, 0.7, 0.8], np.full(d, 0.7), tilt_sd])
        return cls(mean, sd, d, has_noise, has_step)

    def without(self, *, exponents: bool = False, residual: bool = False) -> Prior:
        """Return the prior with the exponents held as given, or next to no residual, for ablations."""
        mean, sd = self.mean.copy(), self.sd.copy()
        if exponents:
            sd[_SCALARS + self.knobs :] = 1e-6
        if residual:
            mean[4], sd[4] = np.log(1e-3), 1e-6
        return replace(self, mean=mean, sd=sd)


def squared(a: Array, b: Array, nominal: Mask) -> Array:
    """Return squared coordinate differences, shape (d, n, m); for nominal knobs 0 or 1."""
    gap = a.T[:, :, None] - b.T[:, None, :]
    out = gap * gap
    if nominal.any():
        out[nominal] = np.abs(gap[nominal]) > 1e-9
    return out


class NoiseKernel(Kernel):
    """Covariance of c + f + s + g, and with one argument that of the observations, c + f + s + g + e.

    Rows of its arguments are ``[log_noise, factors (k), step, unit (d)]``, as `table` puts them together.

    Args:
        vector: What the optimizer sees (`Theta.unpack`), shape (6 + d + k,).
        prior: Its prior; the bounds are four prior sds away.
        nominal: Which knobs are nominal, shape (d,).
    """

    def __init__(self, vector: Array, prior: Prior, nominal: Mask) -> None:
        self.vector, self.prior, self.nominal = vector, prior, nominal
        self._seen: tuple[Array, Array, Array] | None = None

    @property
    def theta(self) -> Any:
        """What the optimizer sees."""
        return self.vector

    @theta.setter
    def theta(self, theta: Array) -> None:
        self.vector = theta

    @property
    def bounds(self) -> Any:
        """Bounds of `theta`."""
        return np.column_stack([self.prior.mean - 4 * self.prior.sd, self.prior.mean + 4 * self.prior.sd])

    @property
    def values(self) -> Theta:
        """The hyperparameters by name."""
        return Theta.unpack(self.vector, len(self.nominal))

    def is_stationary(self) -> Any:
        """Return False: phi is no difference of the arguments."""
        return False

    def _check_bounds_params(self) -> None:
        pass  # a bound is four prior sds away: nothing to warn of

    def phi(self, X: Array) -> Array:
        """Return the refined log noise of each row, shape (n,)."""
        t = self.values.tilt
        return X[:, 0] + X[:, 1 : 1 + len(t)] @ t

    def f(self, a: Array, b: Array) -> Array:
        """Return the covariance of f between two sets of refined log noises, shape (n, m)."""
        t = self.values
        return t.amplitude**2 * matern(np.abs(a[:, None] - b[None, :]) / t.length)[0]

    def rest(self, X: Array, Y: Array) -> Array:
        """Return the covariance of s + g between two sets of rows, shape (n, m)."""
        t, d = self.values, len(self.nominal)
        scaled = np.tensordot(1.0 / t.lengths**2, squared(X[:, -d:], Y[:, -d:], self.nominal), axes=1)
        out = t.residual**2 * matern(np.sqrt(scaled))[0]
        if self.prior.has_step:
            gap = X[:, None, -d - 1] - Y[None, :, -d - 1]
            out += t.step_amplitude**2 * matern(np.abs(gap) / t.step_length)[0]
        return out

    def __call__(self, X: Array, Y: Array | None = None, eval_gradient: bool = False) -> Any:
        """Return the covariance of two sets of rows, shape (n, m); of one also its gradient where asked for."""
        if eval_gradient:
            return self._with_gradient(X)
        other = X if Y is None else Y
        out = 1.0 + self.rest(X, other)
        if self.prior.has_noise:
            out += self.f(self.phi(X), self.phi(other))
        if Y is None:
            out[np.diag_indices_from(out)] += self.values.seed_noise**2
        return out

    def diag(self, X: Array) -> Any:
        """Return the prior variance of c + f + s + g at each row, shape (n,)."""
        t, p = self.values, self.prior
        return np.full(len(X), 1.0 + t.residual**2 + p.has_noise * t.amplitude**2 + p.has_step * t.step_amplitude**2)

    def _gaps(self, X: Array) -> tuple[Array, Array]:
        # of the training rows, which are the same at every step of the optimizer
        if self._seen is None or self._seen[0] is not X:
            d = len(self.nominal)
            along = X[:, :-d].T
            self._seen = X, squared(X[:, -d:], X[:, -d:], self.nominal), along[:, :, None] - along[:, None, :]
        return self._seen[1:]

    def _with_gradient(self, X: Array) -> tuple[Array, Array]:
        t, (n, d) = self.values, (len(X), len(self.nominal))
        gaps, along = self._gaps(X)
        out = np.zeros((len(self.vector), n, n))
        if self.prior.has_noise:
            gap = (along[0] + np.tensordot(t.tilt, along[1:-1], axes=1)) / t.length
            f, slope = matern(np.abs(gap))
            out[0] = (2.0 * t.amplitude**2) * f
            pull = t.amplitude**2 * slope * gap
            out[1] = pull * gap
            np.multiply(along[1:-1], (-pull / t.length)[None], out=out[_SCALARS + d :])
        if self.prior.has_step:
            gap = along[-1] / t.step_length
            s, slope = matern(np.abs(gap))
            out[2] = (2.0 * t.step_amplitude**2) * s
            out[3] = t.step_amplitude**2 * slope * gap * gap
        g, slope = matern(np.sqrt(np.tensordot(1.0 / t.lengths**2, gaps, axes=1)))
        out[4] = (2.0 * t.residual**2) * g
        slope *= t.residual**2
        for i, length in enumerate(t.lengths):
            np.multiply(gaps[i], slope / length**2, out=out[_SCALARS + i])
        covariance = 1.0 + 0.5 * (out[0] + out[2] + out[4])
        on = np.arange(n)
        covariance[on, on] += t.seed_noise**2
        out[5, on, on] = 2.0 * t.seed_noise**2
        return covariance, out.transpose(1, 2, 0)


def table(points: Points) -> Array:
    """Return the rows that the kernel reads."""
    return np.column_stack([points.log_noise, points.factors, points.step, points.unit])


@dataclass(frozen=True)
class Posterior:
    """The fitted surrogate.

    Attributes:
        points: Where it was observed, n points.
        model: scikit-learn's regression.
        trained: The one on fewer points to which the hyperparameters were fitted.
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
        """Return phi, the refined log noise, of each point, shape (n,)."""
        return points.log_noise + points.factors @ self.theta.tilt

    def predict(self, points: Points) -> tuple[Array, Array]:
        """Return mean and sd of c + f + s + g at the points, without seed noise, each of shape (n,)."""
        mean, sd = self.model.predict(table(points), return_std=True)
        return mean, np.maximum(sd, 1e-6)

    def covariance(self, a: Points, b: Points) -> Array:
        """Return the posterior covariance of c + f + s + g between two sets of points, shape (n, m)."""
        seen, one, other = table(self.points), table(a), table(b)
        left = solve_triangular(self.model.L_, self.kernel(seen, one), lower=True)
        right = solve_triangular(self.model.L_, self.kernel(seen, other), lower=True)
        return self.kernel(one, other) - left.T @ right

    def believe(self, pending: Points) -> Posterior:
        """Return the surrogate as if each pending point had returned its posterior mean (kriging believer).

        The mean stays where it is everywhere, the sd shrinks around the pending points.
        Source: Ginsbourger, Le Riche & Carraro 2010, "Kriging is well-suited to parallelize optimization", section 4.
        """
        if not len(pending):
            return self
        rows = np.concatenate([table(self.points), table(pending)])
        values: Any = np.concatenate([self.model.y_train_, self.model.predict(table(pending))])
        return Posterior(self.points + pending, _regression(self.kernel, rows, values), self.trained)

    def tilt_sd(self) -> Array:
        """Return the posterior sd of each refined exponent, shape (k,), the other hyperparameters integrated out."""
        sds, axes = self._laplace()
        count = len(self.theta.tilt)
        variances = (axes**2) @ sds**2
        return np.minimum(np.sqrt(variances), self.kernel.prior.sd)[len(sds) - count :]

    def variants(self, count: int, rng: np.random.Generator) -> list[Posterior]:
        """Return surrogates of the same observations with hyperparameters drawn from their posterior."""
        sds, axes = self._laplace()
        at, (low, high), rows = np.array(self.kernel.theta), self.kernel.bounds.T, table(self.points)
        values: Any = self.model.y_train_
        out: list[Posterior] = []
        for _ in range(count):
            drawn = np.clip(at + axes @ (sds * rng.standard_normal(len(at))), low, high)
            kernel = NoiseKernel(drawn, self.kernel.prior, self.kernel.nominal)
            out.append(Posterior(self.points, _regression(kernel, rows, values), self.trained))
        return out

    def _laplace(self) -> tuple[Array, Array]:
        # sds, shape (p,), and axes, shape (p, p), of the hyperparameters' posterior by Laplace's approximation at the
        # maximum (Rasmussen & Williams 2006, section 5.5), its Hessian by differences of the gradient
        at, prior, step = np.array(self.kernel.theta), self.kernel.prior, 1e-3

        def slope(v: Array) -> Array:
            found: Any = self.trained.log_marginal_likelihood(v, eval_gradient=True, clone_kernel=False)
            return -np.asarray(found[1]) + (v - prior.mean) / prior.sd**2

        level = slope(at)
        hessian = np.array([(slope(at + shift) - level) / step for shift in step * np.eye(len(at))])
        slope(at)  # the kernel that is not cloned keeps the last hyperparameters
        values, axes = np.linalg.eigh((hessian + hessian.T) / 2)
        # a direction that the maximum does not bend is as unknown as before
        return 1.0 / np.sqrt(np.maximum(values, 1.0 / prior.sd.max() ** 2)), axes

    def noise_share(self) -> float:
        """Return the variance of f's mean over that of f's and the rest's means at the observed points, in [0, 1]."""
        if not self.kernel.prior.has_noise:
            return 0.0
        phi, rows = self.axis(self.points), table(self.points)
        f, g = self.kernel.f(phi, phi) @ self.model.alpha_, self.kernel.rest(rows, rows) @ self.model.alpha_
        total = float(f.var() + g.var())
        return float(f.var()) / total if total > 1e-12 else 0.0


def fit(points: Points, values: Array, nominal: Mask, prior: Prior, limit: int = 90) -> Posterior:
    """Fit the surrogate.

    Args:
        points: Observed points, n >= 1.
        values: Their values, shape (n,), of unit scale, smaller is better.
        nominal: Which knobs are nominal, shape (d,), bool.
        prior: Priors of the hyperparameters; says whether f and s are there.
        limit: Hyperparameters are fitted to at most so many points, the best half of them and an even share of the
            rest; the posterior then uses all.
    """
    rows, some = table(points), thin(values, limit)
    trained = _regression(NoiseKernel(prior.mean, prior, nominal), rows[some], values[some], _MaximumAPosteriori(prior))
    model = trained if len(some) == len(values) else _regression(trained.kernel_, rows, values)
    return Posterior(points, model, trained)


def _regression(kernel: Any, rows: Array, values: Array, optimizer: Any = None) -> GaussianProcessRegressor:
    with config_context(assume_finite=True, skip_parameter_validation=True):
        return GaussianProcessRegressor(kernel, alpha=_JITTER, optimizer=optimizer).fit(rows, values)


@dataclass(frozen=True)
class _MaximumAPosteriori:
    """An optimizer for scikit-learn, which maximises the marginal likelihood: the prior joins here."""

    prior: Prior

    def __call__(self, likelihood: _Likelihood, start: Array, bounds: Array) -> tuple[Array, float]:
        prior = self.prior

        def objective(v: Array) -> tuple[float, Array]:
            value, gradient = likelihood(v)
            offset = (v - prior.mean) / prior.sd
            return float(value + 0.5 * offset @ offset), gradient + offset / prior.sd

        found = minimize(objective, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": _STEPS})
        return found.x, float(found.fun)


def thin(losses: Array, limit: int) -> Rows:
    """Return at most `limit` indices, ascending: the best half of them and an even share of the other losses."""
    if len(losses) <= limit:
        return np.arange(len(losses))
    order = np.argsort(losses, kind="stable")
    best, rest = order[: limit // 2], order[limit // 2 :]
    even = rest[np.linspace(0, len(rest) - 1, limit - len(best)).round().astype(int)]
    return np.sort(np.concatenate([best, even]))
