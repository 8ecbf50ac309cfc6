"""Results of a run folder as Plotly figures, a self-contained page and a live app."""
