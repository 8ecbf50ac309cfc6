"""Results of a sweep: rows, regime, figures, winner."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sweeper.errors import SpecError
from sweeper.storage.location import Place, place_of
from sweeper.storage.tables import read_trials

if TYPE_CHECKING:
    import plotly.graph_objects as go
    import pyarrow as pa
    from torch import nn

    from sweeper.analysis.posterior import Posterior
    from sweeper.analysis.regime import Regime
    from sweeper.analysis.scorecard.answer import Answer
    from sweeper.analysis.settings.settings import Settings


@dataclass(frozen=True)
class Results:
    """Results of a sweep. A notebook shows them as a table.

    Attributes:
        run: The run folder; text if it is a URI.
        trials: The trials table, one row per trial.
        objective, noise: The sweep's.
        interrupted: Whether the user stopped it; `resume` continues it.
        reason: Why it ended early; empty if it did not.
        failed: Configurations that failed in this session.
    """

    run: Path | str
    trials: pa.Table
    objective: str
    noise: str
    interrupted: bool = False
    reason: str = ""
    failed: int = 0

    @property
    def regime(self) -> Regime:
        """Fit of the objective over the noise: optimum, interval and curve."""
        from sweeper.analysis.regime import fit_regime

        return fit_regime(self.trials, self.objective, self.noise)

    def recommend(
        self,
        *,
        batch_size: int | None = None,
        momentum: float | None = None,
        learning_rate: float | None = None,
        weight_decay: float | None = None,
        objective: str | None = None,
    ) -> Settings:
        """Return the settings to use: every searched knob, at the values that cannot be changed.

        `print` shows them as a table; `to_yaml` and `to_torch` write them for a sweep and for torch. See
        `sweeper.analysis.settings.recommendation.recommend_settings`.

        Raises:
            NoSettingsError: There are too few viable trials.
            SpecError: A value breaks its rule or is absurd.
        """
        from sweeper.analysis.settings.advice import advise_settings
        from sweeper.storage.run_folder import stored_spec

        advice = advise_settings(
            stored_spec(self.run),
            self.trials,
            batch_sizes=None if batch_size is None else [batch_size],
            momentum=momentum,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            objective=objective,
        )
        return advice.settings[0]

    @property
    def best(self) -> dict[str, Any] | None:
        """Row of the winning configuration's best trial, with its mean; None without a viable trial."""
        from sweeper.analysis.best import choose_winner, find_over_limits
        from sweeper.storage.run_folder import stored_spec

        lost = find_over_limits(self.trials, stored_spec(self.run))
        return choose_winner(self.trials, self.objective, self._posterior, lost)

    def best_model(self, task: str | None = None) -> nn.Module:
        """Return the model with the best merged weights, in eval mode on the CPU.

        Weights that the run folder does not keep are trained again, as `sweeper best --save` does.

        Args:
            task: Letter of the task whose head the model gets, such as `b` for the second; for sweeps over tasks.

        Raises:
            SpecError: No trial is viable, it trains no model, the task is missing or unknown, or this machine cannot
                run it.
        """
        from sweeper.runner.results.winner import load_winner
        from sweeper.storage.run_folder import runnable_spec

        best = self.best
        if best is None:
            raise SpecError("best_model() needs a viable trial, and the sweep has none yet")
        return load_winner(self.run, runnable_spec(self.run), best, task)

    def save_model(self, folder: str | Path, rank: int | None = None) -> float | None:
        """Write the best merged language model as a folder that `from_pretrained` loads, as `sweeper best --save` does.

        Args:
            folder: Folder to make.
            rank: For trials with an adapter: write an adapter of this rank for `PeftModel.from_pretrained`. A base
                that the sweep trained stands in its folder `base`. None writes the whole model.

        Returns:
            The share of the merged update's squared norm that an adapter lacks; None for a whole model.

        Raises:
            SpecError: As in `best_model`, or the model is none of transformers, or the folder exists.
        """
        from sweeper.runner.results.winner import export_winner
        from sweeper.storage.run_folder import runnable_spec

        best = self.best
        if best is None:
            raise SpecError("save_model() needs a viable trial, and the sweep has none yet")
        return export_winner(self.run, runnable_spec(self.run), best, Path(folder), rank).discarded

    def plot(self, view: str = "overview", chart: str = "") -> go.Figure:
        """Return a figure of the sweep's page.

        Args:
            view: Tab of the page: overview, collapse, decomposition, landscape, search.
            chart: Key of a figure of the tab; by default its first one, which is the noise curve on the overview.

        Raises:
            SpecError: There is no such tab or figure; the message lists those that there are.
        """
        from dashboards.page.figures import draw_figure

        return draw_figure(str(self.run), view, chart, self.noise)

    @cached_property
    def answer(self) -> Answer:
        """The answer as `best` prints it: verdict in one word, settings, what to expect, and how sure it is."""
        from sweeper.analysis.scorecard.answer import find_answer
        from sweeper.analysis.summary import find_space
        from sweeper.storage.run_folder import stored_spec

        spec = stored_spec(self.run)
        return find_answer(spec, find_space(spec), self.trials, self._posterior, str(self.run))

    @cached_property
    def _posterior(self) -> Posterior:
        from sweeper.analysis.posterior import fit_posterior
        from sweeper.storage.run_folder import stored_spec

        return fit_posterior(stored_spec(self.run), self.trials, explain=False)

    def _repr_html_(self) -> str:
        """Return the results as HTML for a notebook: verdict, best settings, what to expect, best trials."""
        from sweeper.analysis.best import find_over_limits
        from sweeper.runner.results.notebook import format_results
        from sweeper.storage.run_folder import stored_spec

        lost = find_over_limits(self.trials, stored_spec(self.run))
        return format_results(self.trials, self.objective, self.noise, self.answer, self.best, lost)


def load_results(run: str | Path) -> Results:
    """Return the results in a run folder so far.

    Raises:
        SpecError: The folder holds no sweep.
    """
    from sweeper.storage.run_folder import stored_spec

    spec, place = stored_spec(run), place_of(run)
    return Results(path_or_uri(place), read_trials(place), spec.objective, spec.noise)


def path_or_uri(place: Place) -> Path | str:
    """Return the absolute path of a local folder, or the URI of a remote one."""
    return place.local.absolute() if place.local else place.uri
