"""Judgements of a run, which take seconds: the verdict on its noise and the posterior.

A view waits for its judgement, unless `Judges` work in the background, as they do for the app.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from dashboards.data.runs import Run
from dashboards.views import choices

if TYPE_CHECKING:
    from sweeper.analysis.evidence.findings import Analysis
    from sweeper.analysis.posterior import Posterior
    from sweeper.analysis.regime import Regime
    from sweeper.analysis.settings.settings import Settings

KEPT = 32
MOST_SIZES = 5
LULL = 0.4
"""Time before a question is answered [s]: the page is drawn first, and a newer question may replace it."""
Question = tuple[str, str, str]
"""Objective, noise and split."""


@dataclass(frozen=True)
class Judgement:
    """Judgement of a run for one objective, noise and split.

    Attributes:
        regime: The fit of the objective.
        believed: The posterior; empty for several runs, since no single sampler proposed their trials.
        analysis: The verdict with its tests; None with a reason in `doubt`.
        doubt: Reason without an analysis, else empty.
        trials: Number of trials.
        settings: Whole settings: the best ones, then those at batch sizes in the tried range; empty without a model.
    """

    regime: Regime
    believed: Posterior
    analysis: Analysis | None
    doubt: str
    trials: int
    settings: tuple[Settings, ...] = ()


_known: OrderedDict[tuple[str, Question], tuple[str, Judgement]] = OrderedDict()
_lock = threading.Lock()
_judges: Judges | None = None


def get_judgement(run: Run, question: Question) -> tuple[Judgement | None, bool]:
    """Return the last judgement of a place, and whether it is up to date."""
    with _lock:
        version, judgement = _known.get((run.place, question), ("", None))
    return judgement, judgement is not None and version == run.version


def count_judgements(place: str) -> str:
    """Return a text that changes with every new judgement of a place."""
    with _lock:
        return repr(sorted((question, version) for (of, question), (version, _) in _known.items() if of == place))


def is_busy(place: str) -> bool:
    """Return whether a judgement of a place is in progress."""
    return _judges is not None and _judges.busy(place)


def judge(run: Run, question: Question) -> Judgement:
    """Return the current judgement of a run; a new one takes seconds."""
    judgement, current = get_judgement(run, question)
    if judgement is not None and current:
        return judgement
    objective, noise, split = question
    trials = run.tables["trials"]
    analysis, doubt = _analyse(run, question)
    judgement = Judgement(
        regime=choices.find_regime(run, objective, noise, split),
        believed=choices.find_posterior(run, noise),
        analysis=analysis,
        doubt=doubt,
        trials=trials.num_rows,
        settings=advise(run, objective, noise),
    )
    with _lock:
        _known[run.place, question] = run.version, judgement
        _known.move_to_end((run.place, question))
        while len(_known) > KEPT:
            _known.popitem(last=False)
    return judgement


def _analyse(run: Run, question: Question) -> tuple[Analysis | None, str]:
    objective, noise, split = question
    from sweeper.analysis.evidence.analyse import analyse

    try:
        return analyse(run.tables["trials"], objective, noise, split=split), ""
    except Exception as error:  # a failing verdict must not break the rest of the page
        return None, " ".join(str(error).split()) or type(error).__name__


def advise(run: Run, objective: str, noise: str, batch_size: int | None = None) -> tuple[Settings, ...]:
    """Return whole settings of a run at a batch size, or the best ones and those at usual sizes; empty without a model.

    Raises:
        SpecError: The batch size is absurd.
    """
    from sweeper.analysis.settings.recommendation import fit_model
    from sweeper.storage.space_data import known_space

    trials = run.tables["trials"]
    sizes = list_sizes(trials) if batch_size is None else [batch_size]
    each: list[dict[str, float]] = [*([{}] if batch_size is None else []), *({"batch_size": s} for s in sizes)]
    if run.spec is None or choices.read_sweep(run).own_models:
        return ()
    try:
        model = fit_model(run.spec, known_space(run.spec).space, trials, each, objective=objective, noise=noise)
        return tuple(model.recommend(fixed) for fixed in each)
    except Exception:
        if batch_size is not None:
            raise
        return ()  # a sweep without a model, such as an imported table, gets settings from its noise


def list_sizes(trials: pa.Table) -> list[int]:
    """Return at most `MOST_SIZES` powers of two within the batch sizes of the viable trials."""
    rows = zip(trials["outcome"].to_pylist(), trials["batch_size"].to_pylist(), strict=True)
    tried = [size for outcome, size in rows if outcome == "ok" and size]
    if not tried:
        return []
    sizes = [2**k for k in range(math.ceil(math.log2(min(tried))), math.floor(math.log2(max(tried))) + 1)]
    return sizes[:: -(-len(sizes) // MOST_SIZES)] if sizes else []


def ask(run: Run, question: Question) -> tuple[Judgement | None, bool]:
    """Return a judgement and whether it is up to date; with `Judges` it may be None or old."""
    if _judges is None:
        return judge(run, question), True
    judgement, current = get_judgement(run, question)
    if not current:
        _judges.ask(run, question)
    return judgement, current


def use_judges(judges: Judges | None) -> None:
    """Let `judges` answer all questions from now on; None makes each view wait."""
    global _judges
    _judges = judges


class Judges:
    """Judges runs one after the other in a thread; per place, only the newest question waits.

    Args:
        on_judged: Called after each judgement.
    """

    def __init__(self, on_judged: Callable[[], None] = lambda: None) -> None:
        self._on_judged = on_judged
        self._waiting: OrderedDict[str, tuple[Run, Question]] = OrderedDict()
        self._judging = ""
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None

    def ask(self, run: Run, question: Question) -> None:
        """Queue a run for judgement."""
        with self._wake:
            self._waiting[run.place] = run, question
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True, name="judge")
                self._thread.start()
            self._wake.notify()

    def busy(self, place: str) -> bool:
        """Return whether a run of a place waits for its judgement."""
        with self._wake:
            return place == self._judging or place in self._waiting

    def _work(self) -> None:
        while True:
            with self._wake:
                while not self._waiting:
                    self._wake.wait()
            time.sleep(LULL)
            with self._wake:
                self._judging, (run, question) = self._waiting.popitem(last=False)
            try:
                judge(run, question)
            except Exception as error:
                print(f"warning: {run.name} has no verdict: {' '.join(str(error).split())}", file=sys.stderr)
            with self._wake:
                self._judging = ""
            self._on_judged()
