"""Results of a trial: typed rows whose columns have units and descriptions."""

from trainables.result.columns import LANDSCAPE, MODELS_SCORED, SCORES, SPLITS, TASKS, Column, col, columns_of
from trainables.result.outcome import NEVER_WINS, OUTCOMES, UNSTABLE, Outcome
from trainables.result.rows import HistoryRow, MergeRow, PairOutput, PlaneRow, RungRow
from trainables.result.trial import PHASES, SCHEMA_VERSION, TrialResult, trial_columns

__all__ = [
    "LANDSCAPE", "MODELS_SCORED", "NEVER_WINS", "OUTCOMES", "PHASES", "SCHEMA_VERSION", "SCORES", "SPLITS", "TASKS",
    "UNSTABLE", "Column", "HistoryRow", "MergeRow", "Outcome", "PairOutput", "PlaneRow", "RungRow", "TrialResult",
    "col", "columns_of", "trial_columns",
]  # fmt: skip
