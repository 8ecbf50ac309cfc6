"""What is known before a sweep: the optimal noise of earlier sweeps, and configurations to try first."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search_spaces import Space
from search_spaces._space import SpaceError
from sweeper.config.fields import PriorNoise
from sweeper.config.table_values import BadCells, parse, read_csv
from sweeper.config.yaml_source import SpecError, values_of
from sweeper.formatting import exact
from sweeper.storage.location import place_of
from trainables.registry import unknown
from trainables.spec import PairSpec

if TYPE_CHECKING:
    from sweeper.search.noise_sampler.prior import NoisePrior

_Z = 1.645  # half a 90 % interval in standard deviations
_SHARPEST = 0.05  # no sweep knows its log noise better


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


def pooled(priors: Sequence[PriorNoise | str]) -> NoisePrior | None:
    """Return what earlier sweeps say together: the log noise at which a further sweep has its optimum.

    Runs are weighted by their precision, and their spread beyond it is added: a random-effects mean, whose interval
    is that of one more run.

    Source: DerSimonian & Laird 1986, Controlled Clinical Trials 7:177.
    """
    known = [p for p in priors if isinstance(p, PriorNoise)]
    if not known:
        return None
    from sweeper.search.noise_sampler.prior import NoisePrior

    if len(known) == 1:
        return NoisePrior(known[0].best, known[0].low, known[0].high)
    centre = [math.log(p.best) for p in known]
    variance = [max(math.log(p.high / p.low) / (2 * _Z), _SHARPEST) ** 2 for p in known]
    mean, total = _weighted(centre, variance)
    scatter = sum((c - mean) ** 2 / v for c, v in zip(centre, variance, strict=True)) - (len(known) - 1)
    between = max(0.0, scatter / (total - sum(v**-2 for v in variance) / total))
    mean, total = _weighted(centre, [v + between for v in variance])
    half = _Z * math.sqrt(1 / total + between)
    return NoisePrior(math.exp(mean), math.exp(mean - half), math.exp(mean + half))


def _weighted(values: Sequence[float], variances: Sequence[float]) -> tuple[float, float]:
    # mean weighted by precision, and the sum of the precisions
    total = sum(1 / v for v in variances)
    return sum(x / v for x, v in zip(values, variances, strict=True)) / total, total


def read_points(path: Path, space: Space) -> list[dict[str, Any]]:
    """Read configurations to try first: a YAML or JSON list of knobs and values, or a CSV with a column a knob.

    Of a trials table as `sweeper export` writes it, the configurations whose outcome is ok are taken.

    Raises:
        SpecError: The file cannot be read or holds something else.
    """
    data = _from_csv(path, space) if path.suffix == ".csv" else values_of(path)[0]
    if not isinstance(data, list) or not data or not all(isinstance(p, dict) for p in data):
        raise SpecError(f"{path} must be a list of configurations, such as `- {{learning_rate: 0.1}}`")
    return data


def _from_csv(path: Path, space: Space) -> list[dict[str, Any]]:
    table = read_csv(path)
    names, rows = table.names, table.rows
    bad = BadCells(str(path), len(rows), table.faults)
    if "spec" in names and "outcome" in names:
        bad.refuse()
        trials = [dict(zip(names, row, strict=True)) for row in rows]
        return _different(
            _params(path, i, row["spec"], space) for i, row in enumerate(trials, 1) if row["outcome"] == "ok"
        )
    columns = {
        name: bad.parsed([row[i] for row in rows], _kind(space.knobs.get(name)), f"column {name!r}")
        for i, name in enumerate(names)
    }
    bad.refuse()
    points = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    return _different({k: v for k, v in point.items() if v is not None} for point in points)


def _params(path: Path, row: int, spec: str, space: Space) -> dict[str, Any]:
    try:
        return space.params_of(PairSpec.from_json(spec))
    except (ValueError, TypeError) as error:
        raise SpecError(f"{path}, row {row}, column 'spec': {error}") from None


def _different(points: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for point in points:
        if point not in found:
            found.append(point)
    return found


def _kind(distribution: Any) -> str | None:
    # what a knob's cells hold; None where its choices, or an unknown name, leave that open
    if distribution is None or hasattr(distribution, "choices"):
        return None
    return "int" if isinstance(distribution.low, int) else "float"


def checked_points(space: Space, points: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return configurations with values as their knobs have them; knobs may be missing.

    Raises:
        SpaceError: An unknown knob or a value outside its range; the message names the configuration.
    """
    return [_checked(space, point, f"configuration {i} of enqueue") for i, point in enumerate(points, 1)]


def _checked(space: Space, point: Mapping[str, Any], where: str) -> dict[str, Any]:
    for name in point:
        if name not in space.knobs:
            raise SpaceError(f"{where}: {unknown('knob', name, space.knobs)}")
    return {name: _value(space.knobs[name], value, f"{where}: {name}") for name, value in point.items()}


def _value(distribution: Any, value: Any, where: str) -> Any:
    number = _number(value)
    if hasattr(distribution, "choices"):
        for choice in distribution.choices:
            if isinstance(choice, bool) == isinstance(value, bool) and (choice == value or str(choice) == str(value)):
                return choice
            if number is not None and _number(choice) == number:
                return choice
        rule = f"be one of {', '.join(map(str, distribution.choices))}"
    else:
        whole = isinstance(distribution.low, int)
        if number is not None and distribution._contains(number) and not (whole and number % 1):
            return int(number) if whole else number
        rule = f"be {'whole and ' if whole else ''}in [{exact(distribution.low)}, {exact(distribution.high)}]"
        rule += f" in steps of {exact(distribution.step)}" if distribution.step not in (None, 1) else ""
    raise SpaceError(f"{where} must {rule}, got {value!r}; change its range under parameters, or leave the knob out")


def _number(value: Any) -> float | None:
    try:
        return parse(value, "float")
    except (ValueError, OverflowError):
        return None
