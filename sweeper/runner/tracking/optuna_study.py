"""Trials of a run folder as an Optuna study in an SQLite file, for optuna-dashboard and Optuna's own analyses."""

from __future__ import annotations

import math
import shutil
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search_spaces import Space
from sweeper.analysis.observations import measure_constraints
from sweeper.config.spec import SweepSpec
from sweeper.errors import SpecError
from sweeper.search.objectives import OBJECTIVES, resolve_objective
from sweeper.storage.location import Place
from sweeper.storage.tables import read, read_trials
from trainables.result import Outcome
from trainables.spec import PairSpec

if TYPE_CHECKING:
    import pyarrow as pa
    from optuna.trial import FrozenTrial

Row = Mapping[str, Any]

_ATTRIBUTES = (
    "digest", "config", "number", "repeat", "stage", "proxy", "sampler", "outcome", "outcome_detail", "merged_loss_val",
    "merged_loss_test", "merged_accuracy_val", "merged_accuracy_test", "gain_mean_loss_val", "gain_mean_loss_test",
    "device", "device_seconds",
)  # fmt: skip


def write_study(spec: SweepSpec, space: Space, run: Place, target: Path) -> int:
    """Write the trials of a run folder as an Optuna study, and return their number.

    A trial of the sweep is a trial of the study. Its values are the objectives in their units, its constraints those of
    the sweep's limits (satisfied if <= 0). A trial without a finite value, such as a diverged one, is a failed one.

    Args:
        spec: The sweep.
        space: Its space.
        run: The run folder.
        target: The SQLite file, which must not exist.

    Raises:
        SpecError: The target exists or cannot be written, or the run folder cannot be read.
    """
    if target.exists():
        raise SpecError(f"{target} exists, and an export replaces no study; choose another --out")
    trials = make_study_trials(spec, space, read_trials(run), read(run, "rungs"))
    try:
        with tempfile.TemporaryDirectory(prefix="sweeper-") as folder:
            file = Path(folder) / "study.db"
            _store(spec, run.name, trials, file)
            with file.open("rb") as source, target.open("xb") as copy:
                shutil.copyfileobj(source, copy)
    except OSError as error:
        raise SpecError(f"cannot write {target}: {error.strerror or error}") from None
    return len(trials)


def _store(spec: SweepSpec, name: str, trials: Iterable[FrozenTrial], file: Path) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    up, down = optuna.study.StudyDirection.MAXIMIZE, optuna.study.StudyDirection.MINIMIZE
    directions = [up if OBJECTIVES[name].maximize else down for name in spec.objectives]
    storage = optuna.storages.RDBStorage(f"sqlite:///{file}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study = optuna.create_study(storage=storage, study_name=name, directions=directions)
        study.set_metric_names(list(spec.objectives))
        for key in ("space", "sampler", "noise", "seed"):
            study.set_user_attr(key, getattr(spec, key))
        study.add_trials(trials)
    storage.remove_session()
    storage.engine.dispose()


def make_study_trials(spec: SweepSpec, space: Space, trials: pa.Table, rungs: pa.Table) -> list[FrozenTrial]:
    """Return the Optuna trials of stored trials, in their order.

    Args:
        spec: The sweep.
        space: Its space.
        trials: The trials table.
        rungs: The rungs table, for the intermediate values of a sweep with one objective.
    """
    columns = [resolve_objective(name, trials).column for name in spec.objectives]
    steps: dict[str, dict[int, float]] = {}
    if len(columns) == 1 and columns[0] in rungs.column_names:
        for row in rungs.to_pylist():
            if (value := row[columns[0]]) is not None:
                steps.setdefault(row["digest"], {})[row["step"]] = value
    return [_make_trial(spec, space, columns, row, steps.get(row["digest"], {})) for row in trials.to_pylist()]


def _make_trial(
    spec: SweepSpec, space: Space, columns: Iterable[str], row: Row, steps: Mapping[int, float]
) -> FrozenTrial:
    from optuna.trial import TrialState, create_trial

    values = [row[column] for column in columns]
    finite = row["outcome"] == Outcome.OK and all(v is not None and math.isfinite(v) for v in values)
    params = space.params_of(PairSpec.from_json(row["spec"]))
    knobs = {name: _cover(space.knobs[name], value) for name, value in params.items()}
    known = {name: knob for name, knob in knobs.items() if knob is not None}
    names = (*_ATTRIBUTES, f"noise_{spec.noise}")
    attributes = {name: row[name] for name in names if row.get(name) not in (None, "")}
    attributes |= {f"knob {name}": params[name] for name in params.keys() - known.keys()}
    pruned = row["outcome"] == Outcome.PRUNED
    trial = create_trial(
        state=TrialState.COMPLETE if finite else TrialState.PRUNED if pruned else TrialState.FAIL,
        params={name: params[name] for name in known},
        distributions=known,
        values=values if finite else None,
        constraints=measure_constraints([row], spec),
        user_attrs={k: v for k, v in attributes.items() if not isinstance(v, float) or math.isfinite(v)},
        intermediate_values=dict(steps),
    )
    if (started := _read_start(row["started"])) is not None:
        trial.datetime_start = started
        trial.datetime_complete = started + timedelta(seconds=row["device_seconds"] or 0.0)
    return trial


def _cover(knob: Any, value: Any) -> Any:
    """Return a knob whose range holds the value, which may lie outside of it in an extension; None for a new choice."""
    if hasattr(knob, "choices"):
        return knob if value in knob.choices else None
    if knob.log and value <= 0:
        return None
    if knob._contains(value):
        return knob
    return type(knob)(min(knob.low, value), max(knob.high, value), log=knob.log)


def _read_start(text: str) -> datetime | None:
    try:
        # Optuna keeps local times without a zone
        return datetime.fromisoformat(text).astimezone().replace(tzinfo=None)
    except ValueError:  # an imported table may hold any text
        return None
