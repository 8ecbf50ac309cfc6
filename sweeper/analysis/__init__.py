"""Statistics of finished trials: regime, posterior, recommendation, comparison."""
