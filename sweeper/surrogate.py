"""Surrogate of a study: a Gaussian process over log noise plus a smaller one over all knobs.

    y(h) = c + f(phi(h)) + g(h) + e,   phi(h) = ln S(h) + factors(h) @ tilt

``f``  Matérn 5/2 over phi: what the noise explains
``g``  Matérn 5/2 over the unit cube with one length per knob, small a priori: what it does not
``e``  seed noise, of one size

Hyperparameters are set by maximum a posteriori; with a space that has no noise, f is absent.
Source: additive and ARD kernels as in Rasmussen & Williams 2006, eq. 2.30 (posterior), 4.17 (Matérn), 5.8 (gradient).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import cho_solve, solve_triangular
from scipy.optimize import minimize

from .knobs import Array, Mask, Rows
from .noise_axis import Points

_ROOT5 = 5.0**0.5
_JITTER = 1e-6


def tame(losses: Array) -> Array:
    """Return losses standardised for a Gaussian process: mean 0, sd 1, no heavy tails.

    Collapsed pairs lose by orders of magnitude. In units of the distance from the median to the 10 % quantile, what
    lies above the median is squeezed by tanh to at most 2, what lies more than 5 below by a logarithm: bad stays bad
    and ordered, but no longer drowns the good half.

    Args:
        losses: Finite values, shape (n,), smaller is better.
    """
    scale = float(np.abs(losses).max())
    if scale == 0 or float(np.ptp(losses / scale)) <= 1e-12:
        return np.zeros_like(losses)
    x = losses / scale  # so that no difference overflows
    middle = float(np.median(x))
    spread = middle - float(np.quantile(x, 0.1)) or middle - float(x.min()) or float(np.ptp(x))
    x = (x - middle) / spread
    x = np.where(x > 0, 2.0 * np.tanh(x / 2.0), np.maximum(x, -5.0) - np.log1p(np.maximum(-5.0 - x, 0.0)))
    return (x - x.mean()) / x.std()


def matern(distance: Array) -> tuple[Array, Array]:
    """Return the Matérn 5/2 correlation and minus its derivative divided by the distance, both of the same shape."""
    scaled = _ROOT5 * distance
    decay = np.exp(-scaled)
    return (1.0 + scaled + scaled * scaled / 3.0) * decay, 5.0 / 3.0 * (1.0 + scaled) * decay


@dataclass(frozen=True)
class Theta:
    """Hyperparameters; amplitudes in units of the standardised target, `length` in units of log noise."""

    amplitude: float
    length: float
    residual: float
    lengths: Array
    seed_noise: float
    tilt: Array

    @classmethod
    def unpack(cls, v: Array, d: int) -> Theta:
        """Read the vector that the optimizer sees: logarithms, and the tilt as it is."""
        e = np.exp(v[: 4 + d])
        return cls(e[0], e[1], e[2], e[4:], e[3], v[4 + d :])


@dataclass(frozen=True)
class Prior:
    """Independent normal priors of the optimizer's vector: mean and sd, both shape (4 + d + k,)."""

    mean: Array
    sd: Array

    @classmethod
    def of(cls, d: int, tilt_sd: Array, span: float) -> Prior:
        """Return the prior for d knobs.

        Args:
            d: Number of knobs.
            tilt_sd: Prior sd of each refined exponent, shape (k,); small, since the definition is the first guess.
            span: Reachable range of log noise; a hump is a fifth of it wide, give or take a factor of two.
        """
        has_noise = span > 0
        # a plain space has no f, so g is no residual and gets the amplitude of the whole
        residual = np.log(0.3) if has_noise else 0.0
        length = np.log(0.2 * span) if has_noise else 0.0
        lengths = np.full(d, np.log(0.7 * max(d, 1) ** 0.25))  # distances grow with the number of knobs
        mean = np.concatenate([[0.0, length, residual, np.log(0.1)], lengths, np.zeros(len(tilt_sd))])
        return cls(mean, np.concatenate([[0.7, 0.7, 0.7, 0.8], np.full(d, 0.7), tilt_sd]))


def squared(a: Array, b: Array, nominal: Mask) -> Array:
    """Return squared coordinate differences, shape (d, n, m); for nominal knobs 0 or 1."""
    gap = a.T[:, :, None] - b.T[:, None, :]
    out = gap * gap
    if nominal.any():
        out[nominal] = np.abs(gap[nominal]) > 1e-9
    return out


@dataclass(frozen=True)
class Posterior:
    """The fitted surrogate.

    Attributes:
        points: Where it was observed, n points.
        theta: Hyperparameters.
        nominal: Which knobs are nominal, shape (d,).
        has_noise: Whether f is part of it.
        chol: Lower Cholesky factor of the covariance of the observations, shape (n, n).
        weights: K^-1 (y - c), shape (n,).
        constant: c.
    """

    points: Points
    theta: Theta
    nominal: Mask
    has_noise: bool
    chol: Array
    weights: Array
    constant: float

    def axis(self, points: Points) -> Array:
        """Return phi, the refined log noise, of each point, shape (n,)."""
        return points.log_noise + points.factors @ self.theta.tilt

    def covariance(self, a: Points, b: Points) -> Array:
        """Return the prior covariance of f + g between two sets of points, shape (n, m)."""
        t = self.theta
        scaled = np.tensordot(1.0 / t.lengths**2, squared(a.unit, b.unit, self.nominal), axes=1)
        out = t.residual**2 * matern(np.sqrt(scaled))[0]
        return out + self._noise_covariance(self.axis(a), self.axis(b)) if self.has_noise else out

    def _noise_covariance(self, a: Array, b: Array) -> Array:
        return self.theta.amplitude**2 * matern(np.abs(a[:, None] - b[None, :]) / self.theta.length)[0]

    @property
    def _prior_variance(self) -> float:
        return self.theta.residual**2 + (self.theta.amplitude**2 if self.has_noise else 0.0)

    def predict(self, points: Points) -> tuple[Array, Array]:
        """Return mean and sd of f + g + c at the points, without seed noise, each of shape (n,)."""
        cross = self.covariance(self.points, points)
        explained = solve_triangular(self.chol, cross, lower=True)
        variance = self._prior_variance - np.einsum("ij,ij->j", explained, explained)
        return self.constant + cross.T @ self.weights, np.sqrt(np.maximum(variance, 1e-12))

    def believe(self, pending: Points) -> Posterior:
        """Return the surrogate as if each pending point had returned its posterior mean (kriging believer).

        The mean stays where it is everywhere, the sd shrinks around the pending points.
        Source: Ginsbourger, Le Riche & Carraro 2010, "Kriging is well-suited to parallelize optimization", section 4.
        """
        if not len(pending):
            return self
        corner = solve_triangular(self.chol, self.covariance(self.points, pending), lower=True)
        own = self.covariance(pending, pending) + self.theta.seed_noise**2 * np.eye(len(pending))
        schur = np.linalg.cholesky(own - corner.T @ corner + _JITTER * np.eye(len(pending)))
        n, m = len(self.points), len(pending)
        chol = np.block([[self.chol, np.zeros((n, m))], [corner.T, schur]])
        # an observation equal to the mean has no weight
        weights = np.concatenate([self.weights, np.zeros(m)])
        return replace(self, points=self.points + pending, chol=chol, weights=weights)

    def noise_curve(self, axis: Array) -> tuple[Array, Array]:
        """Return mean, shape (m,), and covariance, shape (m, m), of f at the given log noises."""
        cross = self._noise_covariance(self.axis(self.points), axis)
        explained = solve_triangular(self.chol, cross, lower=True)
        return cross.T @ self.weights, self._noise_covariance(axis, axis) - explained.T @ explained

    def noise_share(self) -> float:
        """Return the variance of f's mean over that of f's and g's means at the observed points, in [0, 1]."""
        if not self.has_noise:
            return 0.0
        f = self._noise_covariance(self.axis(self.points), self.axis(self.points)) @ self.weights
        g = self.covariance(self.points, self.points) @ self.weights - f
        total = float(f.var() + g.var())
        return float(f.var()) / total if total > 1e-12 else 0.0


def fit(points: Points, losses: Array, nominal: Mask, prior: Prior, has_noise: bool, limit: int = 120) -> Posterior:
    """Fit the surrogate.

    Args:
        points: Observed points, n >= 1.
        losses: Their values, shape (n,), finite, smaller is better.
        nominal: Which knobs are nominal, shape (d,), bool.
        prior: Priors of the hyperparameters.
        has_noise: Whether to include f.
        limit: Hyperparameters are fitted to at most so many points, the best half of them and an even share of the
            rest; the posterior then uses all.
    """
    y = tame(losses)
    rows = thin(losses, limit)
    objective = _objective(points[rows], y[rows], nominal, prior, has_noise)
    bounds = list(zip(prior.mean - 4 * prior.sd, prior.mean + 4 * prior.sd, strict=True))
    found = minimize(objective, prior.mean, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 40})
    theta = Theta.unpack(found.x, points.unit.shape[1])
    blank = Posterior(points, theta, nominal, has_noise, np.zeros((0, 0)), np.zeros(0), 0.0)
    noise = theta.seed_noise**2 + _JITTER
    chol = np.asarray(np.linalg.cholesky(blank.covariance(points, points) + noise * np.eye(len(y))), dtype=np.float64)
    constant = _constant(chol, y)
    return replace(blank, chol=chol, weights=cho_solve((chol, True), y - constant), constant=constant)


def _constant(chol: Array, y: Array) -> float:
    # generalised least squares with a unit normal prior (y is standardised)
    ones = cho_solve((chol, True), np.ones(len(y)))
    return float(ones @ y / (ones.sum() + 1.0))


def thin(losses: Array, limit: int) -> Rows:
    """Return at most `limit` indices, ascending: the best half of them and an even share of the other losses."""
    if len(losses) <= limit:
        return np.arange(len(losses))
    order = np.argsort(losses, kind="stable")
    best, rest = order[: limit // 2], order[limit // 2 :]
    even = rest[np.linspace(0, len(rest) - 1, limit - len(best)).round().astype(int)]
    return np.sort(np.concatenate([best, even]))


def _objective(
    points: Points, y: Array, nominal: Mask, prior: Prior, has_noise: bool
) -> Callable[[Array], tuple[float, Array]]:
    # minus log posterior and its gradient (Rasmussen & Williams 2006, eq. 5.8 and 5.9); c is integrated out: K + 11'
    n, d = points.unit.shape
    gaps = squared(points.unit, points.unit, nominal).reshape(d, n * n)
    eye = np.eye(n)

    def value_and_gradient(v: Array) -> tuple[float, Array]:
        t = Theta.unpack(v, d)
        g, g_slope = matern(np.sqrt((1.0 / t.lengths**2) @ gaps))
        g, g_slope = t.residual**2 * g.reshape(n, n), t.residual**2 * g_slope
        phi = points.log_noise + points.factors @ t.tilt
        gap = (phi[:, None] - phi[None, :]) / t.length
        f, f_slope = matern(np.abs(gap))
        if has_noise:
            f, f_slope = t.amplitude**2 * f, t.amplitude**2 * f_slope
        else:
            f, f_slope = np.zeros_like(f), np.zeros_like(f)
        chol = np.linalg.cholesky(f + g + 1.0 + (t.seed_noise**2 + _JITTER) * eye)
        inverse = cho_solve((chol, True), eye)
        weights = inverse @ y
        pull = inverse - np.outer(weights, weights)
        by_gap = pull * f_slope * gap
        gradient = np.concatenate(
            [
                [np.sum(pull * f), 0.5 * np.sum(by_gap * gap), np.sum(pull * g), t.seed_noise**2 * np.trace(pull)],
                0.5 * (gaps @ (pull.ravel() * g_slope)) / t.lengths**2,
                -(by_gap.sum(axis=1) / t.length) @ points.factors,
            ]
        )
        offset = (v - prior.mean) / prior.sd
        value = 0.5 * y @ weights + np.log(np.diag(chol)).sum() + 0.5 * offset @ offset
        return float(value), gradient + offset / prior.sd

    return value_and_gradient
