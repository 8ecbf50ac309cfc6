"""Covariance of the surrogate: over log noise, log step size and all knobs, with the priors of its hyperparameters.

    y(h) = c + f(phi(h)) + s(psi(h)) + g(h) + e,   phi(h) = ln S(h) + factors(h) @ tilt,   psi(h) = ln(eta / (1 - mu))

``f``  Matérn 5/2 over phi: the effect of the noise
``s``  Matérn 5/2 over psi: the limit of stable steps, which no noise scale contains
``g``  Matérn 5/2 over the unit cube with one length per knob, and over phi with the length of f: the residual
``c``  constant, standard normal a priori (the target is standardised), integrated out
``e``  seed noise of one size

Trials of a proxy, with a share of the training budget, have an optimum, a scale and an offset of their own:

    y'(h) = c + c' + r (f + s + g)(phi(h) + shift),   with correlation rho between (f + s + g) of the two budgets

So they say as much about the full budget as the trials with the full budget agree with them.

A hump seldom has one height along a level set, and a residual over the knobs alone cannot follow a ridge across them.
Therefore the search's residual varies along phi, too, and is as large as f a priori. The additive model of explanations
leaves phi out of g, so that f is all that noise explains, and its residual is small a priori.

scikit-learn's kernels support neither learnt projections nor nominal knobs, so this module defines its own kernel. It
omits f if no noise varies, and s if no learning rate varies.
Source of the proxy: intrinsic coregionalization, Bonilla, Chai & Williams 2008, eq. 1, of two tasks.
Source: additive and ARD kernels as in Rasmussen & Williams 2006, eq. 4.17 (Matérn).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import expit
from sklearn.gaussian_process.kernels import Kernel

from sweeper.search.noise_sampler.encoding import Array, Mask
from sweeper.search.noise_sampler.level_sets import Points

_ROOT5 = 5.0**0.5
_SCALARS = 6
_PROXY = 3  # agreement, scale and shift of a proxy
_OFFSET = 0.5  # prior sd of the proxy's offset, in units of the standardised target


def matern(distance: Array) -> tuple[Array, Array]:
    """Return the Matérn 5/2 correlation and minus its derivative divided by the distance, both of the same shape."""
    scaled = _ROOT5 * distance
    decay = np.exp(-scaled)
    return (1.0 + scaled + scaled * scaled / 3.0) * decay, 5.0 / 3.0 * (1.0 + scaled) * decay


@dataclass(frozen=True)
class Theta:
    """Hyperparameters; amplitudes in units of the standardised target, lengths of f and s in nats.

    Of a proxy: `agreement` is the correlation of its scores with those of the full budget, in (0, 1), `scale` its
    amplitude over theirs, and `shift` the log noise that its optimum lies below theirs.
    """

    amplitude: float
    length: float
    step_amplitude: float
    step_length: float
    residual: float
    seed_noise: float
    lengths: Array
    tilt: Array
    agreement: float = 1.0
    scale: float = 1.0
    shift: float = 0.0

    @classmethod
    def unpack(cls, v: Array, d: int, proxied: bool = False) -> Theta:
        """Return the hyperparameters in the optimizer's vector.

        It holds logarithms and the plain tilt; with a proxy also the logit of the agreement, the logarithm of the scale
        and the plain shift.
        """
        e, rest = np.exp(v[: _SCALARS + d]), v[_SCALARS + d :]
        tilt = rest[:-_PROXY] if proxied else rest
        own = (float(expit(rest[-3])), float(np.exp(rest[-2])), float(rest[-1])) if proxied else ()
        return cls(e[0], e[1], e[2], e[3], e[4], e[5], e[_SCALARS:], tilt, *own)


@dataclass(frozen=True)
class Prior:
    """Independent normal priors of the optimizer's vector, and the parts of the model.

    Attributes:
        mean, sd: Of the priors, both shape (6 + d + k,), of d `knobs`; 3 more with a proxy.
        has_noise, has_step: Whether the model has f and s.
        additive: Whether the residual leaves phi out.
        proxied: Whether some trials are a proxy's.
    """

    mean: Array
    sd: Array
    knobs: int
    has_noise: bool
    has_step: bool
    additive: bool
    proxied: bool = False

    @classmethod
    def of(
        cls,
        d: int,
        tilt_sd: Array,
        span: float = 0.0,
        step_span: float = 0.0,
        *,
        additive: bool = False,
        proxied: bool = False,
    ) -> Prior:
        """Return the prior for d knobs.

        Args:
            d: Number of knobs.
            tilt_sd: Prior sd of the refined exponents around the definition's, shape (k,).
            span: Reachable range of log noise, 0 if none varies; a hump spans a fifth of it, within a factor of two.
            step_span: Range of the log step size, 0 if none varies.
            additive: Whether noise explains what it can alone, with a small residual that leaves phi out.
            proxied: Whether some trials are a proxy's. A priori its scores correlate with .9, between .5 and .99, its
                scale is the same within a third, and its optimum within a factor of two.
        """
        has_noise, has_step = span > 0, step_span > 0
        small = has_noise and additive
        scalars = [
            1.0,
            0.2 * span if has_noise else 1.0,
            0.3,
            0.3 * step_span if has_step else 1.0,
            0.3 if small else 1.0,
            0.1 if additive or not has_noise else 0.3,
        ]
        lengths = np.full(d, 0.7 * max(d, 1) ** 0.25)  # distances grow with the number of knobs
        mean = np.concatenate([np.log(scalars), np.log(lengths), np.zeros(len(tilt_sd))])
        # a residual that may vanish lets wrong exponents explain everything, and the search then follows one level set
        free = 0.5 if has_noise and not additive else 1.2
        sd = np.concatenate([[0.7, 0.7, 0.7, 0.7, free, 0.8], np.full(d, 0.7), tilt_sd])
        if proxied:
            mean, sd = np.append(mean, [2.2, 0.0, 0.0]), np.append(sd, [1.2, 0.3, 0.7 if has_noise else 1e-6])
        return cls(mean, sd, d, has_noise, has_step, additive or not has_noise, proxied)

    def hold(self, *, exponents: bool = False, residual: bool = False) -> Prior:
        """Return the prior with the exponents held as defined, or almost no residual, for ablations."""
        mean, sd = self.mean.copy(), self.sd.copy()
        if exponents:
            sd[_SCALARS + self.knobs : len(sd) - _PROXY * self.proxied] = 1e-6
        if residual:
            mean[4], sd[4] = np.log(1e-3), 1e-6
        return replace(self, mean=mean, sd=sd)


def squared_differences(a: Array, b: Array, nominal: Mask) -> Array:
    """Return squared coordinate differences, shape (d, n, m); for nominal knobs 0 or 1."""
    gap = a.T[:, :, None] - b.T[:, None, :]
    out = gap * gap
    if nominal.any():
        out[nominal] = np.abs(gap[nominal]) > 1e-9
    return out


class NoiseKernel(Kernel):
    """Covariance of c + f + s + g, and with one argument that of the observations, c + f + s + g + e.

    Rows of its arguments are ``[log_noise, proxy, factors (k), step, unit (d)]``, see `make_table`.

    Args:
        vector: The optimizer's vector (`Theta.unpack`), of the shape of the prior's mean.
        prior: Prior of the vector; the bounds are four prior sds away.
        nominal: Which knobs are nominal, shape (d,).
        spread: Factors on the seed noise of the training rows, shape (n,); None has the same noise everywhere.
    """

    def __init__(self, vector: Array, prior: Prior, nominal: Mask, spread: Array | None = None) -> None:
        self.vector, self.prior, self.nominal, self.spread = vector, prior, nominal, spread
        self._seen: tuple[Array, Array, Array] | None = None

    @property
    def theta(self) -> Any:
        """The optimizer's vector."""
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
        return Theta.unpack(self.vector, len(self.nominal), self.prior.proxied)

    def is_stationary(self) -> Any:
        """Return False: phi is not a difference of the arguments."""
        return False

    def _check_bounds_params(self) -> None:
        pass  # a bound is four prior sds away, so a warning would be noise

    def phi(self, X: Array) -> Array:
        """Return the refined log noise of each row, shape (n,)."""
        t = self.values
        out = X[:, 0] + X[:, 2 : 2 + len(t.tilt)] @ t.tilt
        return out + t.shift * X[:, 1] if self.prior.proxied else out

    def link(self, X: Array, Y: Array) -> Array:
        """Return the factors on the covariance of f + s + g by the budgets of two sets of rows, shape (n, m)."""
        t, one, other = self.values, X[:, 1, None], Y[None, :, 1]
        scales = (1.0 + (t.scale - 1.0) * one) * (1.0 + (t.scale - 1.0) * other)
        return scales * np.where(one == other, 1.0, t.agreement)

    def f(self, a: Array, b: Array) -> Array:
        """Return the covariance of f between two sets of refined log noises, shape (n, m)."""
        t = self.values
        return t.amplitude**2 * matern(np.abs(a[:, None] - b[None, :]) / t.length)[0]

    def rest(self, X: Array, Y: Array) -> Array:
        """Return the covariance of s + g between two sets of rows, shape (n, m)."""
        t, d = self.values, len(self.nominal)
        same = Y is X and self._seen is not None and self._seen[0] is X
        gaps = self._gaps(X)[0] if same else squared_differences(X[:, -d:], Y[:, -d:], self.nominal)
        scaled = np.tensordot(1.0 / t.lengths**2, gaps, axes=1)
        if not self.prior.additive:
            scaled += ((self.phi(X)[:, None] - self.phi(Y)[None, :]) / t.length) ** 2
        out = t.residual**2 * matern(np.sqrt(scaled))[0]
        if self.prior.has_step:
            gap = X[:, None, -d - 1] - Y[None, :, -d - 1]
            out += t.step_amplitude**2 * matern(np.abs(gap) / t.step_length)[0]
        return out

    def __call__(self, X: Array, Y: Array | None = None, eval_gradient: bool = False) -> Any:
        """Return the covariance of two sets of rows, shape (n, m); of one set optionally with its gradient."""
        if eval_gradient:
            return self._covariance_and_gradient(X)
        other = X if Y is None else Y
        out = 1.0 + self.rest(X, other)
        if self.prior.has_noise:
            out += self.f(self.phi(X), self.phi(other))
        if self.prior.proxied:
            out = 1.0 + self.link(X, other) * (out - 1.0) + _OFFSET**2 * np.outer(X[:, 1], other[:, 1])
        if Y is None:
            out[np.diag_indices_from(out)] += self._seed_variance
        return out

    @property
    def _seed_variance(self) -> Any:
        return (self.values.seed_noise * (1.0 if self.spread is None else self.spread)) ** 2

    def diag(self, X: Array) -> Any:
        """Return the prior variance of c + f + s + g at each row, shape (n,)."""
        t, p = self.values, self.prior
        own = t.residual**2 + p.has_noise * t.amplitude**2 + p.has_step * t.step_amplitude**2
        if not p.proxied:
            return np.full(len(X), 1.0 + own)
        return 1.0 + own * (1.0 + (t.scale - 1.0) * X[:, 1]) ** 2 + _OFFSET**2 * X[:, 1]

    def keep_differences(self, X: Array) -> None:
        """Keep the differences between these rows, for many covariances of the same rows."""
        self._gaps(X)

    def _gaps(self, X: Array) -> tuple[Array, Array]:
        # cached, since the training rows stay the same during an optimization
        if self._seen is None or self._seen[0] is not X:
            d = len(self.nominal)
            along = X[:, :-d].T
            self._seen = (
                X,
                squared_differences(X[:, -d:], X[:, -d:], self.nominal),
                along[:, :, None] - along[:, None, :],
            )
        return self._seen[1:]

    def _covariance_and_gradient(self, X: Array) -> tuple[Array, Array]:
        t, (n, d) = self.values, (len(X), len(self.nominal))
        gaps, along = self._gaps(X)
        out = np.zeros((len(self.vector), n, n))
        scaled = np.tensordot(1.0 / t.lengths**2, gaps, axes=1)
        gap = (along[0] + np.tensordot(t.tilt, along[2:-1], axes=1) + t.shift * along[1]) / t.length
        joint = not self.prior.additive
        g, slope = matern(np.sqrt(scaled + gap * gap if joint else scaled))
        out[4] = (2.0 * t.residual**2) * g
        slope *= t.residual**2
        if self.prior.has_noise:
            f, along_f = matern(np.abs(gap))
            out[0] = (2.0 * t.amplitude**2) * f
            pull = (t.amplitude**2 * along_f + slope if joint else t.amplitude**2 * along_f) * gap
            out[1] = pull * gap
            first = _SCALARS + d
            np.multiply(along[2:-1], (-pull / t.length)[None], out=out[first : first + len(t.tilt)])
            if self.prior.proxied:
                out[-1] = along[1] * (-pull / t.length)
        if self.prior.has_step:
            step = along[-1] / t.step_length
            s, along_s = matern(np.abs(step))
            out[2] = (2.0 * t.step_amplitude**2) * s
            out[3] = t.step_amplitude**2 * along_s * step * step
        for i, length in enumerate(t.lengths):
            np.multiply(gaps[i], slope / length**2, out=out[_SCALARS + i])
        if self.prior.proxied:
            out *= self.link(X, X)
        covariance = 1.0 + 0.5 * (out[0] + out[2] + out[4])
        if self.prior.proxied:
            mark, linked = X[:, 1], covariance - 1.0
            out[-3] = np.where(mark[:, None] == mark, 0.0, (1.0 - t.agreement) * linked)
            out[-2] = (mark[:, None] + mark) * linked
            covariance += _OFFSET**2 * np.outer(mark, mark)
        on = np.arange(n)
        covariance[on, on] += self._seed_variance
        out[5, on, on] = 2.0 * self._seed_variance
        return covariance, out.transpose(1, 2, 0)


def make_table(points: Points) -> Array:
    """Return the kernel's input rows for these points."""
    return np.column_stack([points.log_noise, points.proxy, points.factors, points.step, points.unit])
