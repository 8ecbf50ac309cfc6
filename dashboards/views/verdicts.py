"""What takes seconds to know of a run: the verdict on its noise and what the model of its trials says.

A view that asks waits for the answer, except where `Judges` work in the background, as they do for the app.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dashboards.data.runs import Run
from dashboards.views import choices

if TYPE_CHECKING:
    from sweeper.analysis.evidence.findings import Analysis
    from sweeper.analysis.posterior import Posterior
    from sweeper.analysis.regime import Regime

KEPT = 32
LULL = 0.4
"""How long a question waits [s]: the page that asks it is drawn first, and a newer one may replace it."""
Question = tuple[str, str, str]
"""Objective, noise and split."""


@dataclass(frozen=True)
class Judgement:
    """What is known of one run, for one objective, noise and split.

    Attributes:
        regime: The fit of the objective.
        believed: What the model says; nothing for several runs at once, which no one sampler proposed.
        analysis: The verdict with its tests; None where `doubt` says why there is none.
        doubt: Empty where there is an analysis.
        trials: How many trials it was made from.
    """

    regime: Regime
    believed: Posterior
    analysis: Analysis | None
    doubt: str
    trials: int


_known: OrderedDict[tuple[str, Question], tuple[str, Judgement]] = OrderedDict()
_lock = threading.Lock()
_judges: Judges | None = None


def known(run: Run, question: Question) -> tuple[Judgement | None, bool]:
    """Return the last judgement of a place, and whether it is of the content as it is now."""
    with _lock:
        version, found = _known.get((run.place, question), ("", None))
    return found, found is not None and version == run.version


def mark(place: str) -> str:
    """Return what changes whenever a judgement of a place comes."""
    with _lock:
        return repr(sorted((question, version) for (of, question), (version, _) in _known.items() if of == place))


def busy(place: str) -> bool:
    """Whether a judgement of a place is on its way."""
    return _judges is not None and _judges.busy(place)


def judge(run: Run, question: Question) -> Judgement:
    """Return the judgement of a run as it is now; takes seconds where it is not known yet."""
    found, current = known(run, question)
    if found is not None and current:
        return found
    objective, noise, split = question
    trials = run.tables["trials"]
    analysis, doubt = _analysed(run, question)
    found = Judgement(
        regime=choices.regime(run, objective, noise, split),
        believed=choices.believed(run, noise),
        analysis=analysis,
        doubt=doubt,
        trials=trials.num_rows,
    )
    with _lock:
        _known[run.place, question] = run.version, found
        _known.move_to_end((run.place, question))
        while len(_known) > KEPT:
            _known.popitem(last=False)
    return found


def _analysed(run: Run, question: Question) -> tuple[Analysis | None, str]:
    objective, noise, split = question
    from sweeper.analysis.evidence.analyse import analyse

    try:
        return analyse(run.tables["trials"], objective, noise, split=split), ""
    except Exception as error:  # a verdict that fails must not take the rest of the page with it
        return None, " ".join(str(error).split()) or type(error).__name__


def ask(run: Run, question: Question) -> tuple[Judgement | None, bool]:
    """Return a judgement and whether it is of the content as it is now; in the background it may be None or older."""
    if _judges is None:
        return judge(run, question), True
    found, current = known(run, question)
    if not current:
        _judges.ask(run, question)
    return found, current


def in_background(judges: Judges | None) -> None:
    """Have all questions answered by `judges` from now on; None: by who asks."""
    global _judges
    _judges = judges


class Judges:
    """Judges runs one after the other in a thread; only the newest question of a place waits.

    Args:
        told: Called when a judgement has come.
    """

    def __init__(self, told: Callable[[], None] = lambda: None) -> None:
        self._told = told
        self._waiting: OrderedDict[str, tuple[Run, Question]] = OrderedDict()
        self._judging = ""
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None

    def ask(self, run: Run, question: Question) -> None:
        """Have a run judged."""
        with self._wake:
            self._waiting[run.place] = run, question
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True, name="judge")
                self._thread.start()
            self._wake.notify()

    def busy(self, place: str) -> bool:
        """Whether a run of a place waits or is being judged."""
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
                print(f"warning: {run.name} cannot be judged: {' '.join(str(error).split())}", file=sys.stderr)
            with self._wake:
                self._judging = ""
            self._told()
