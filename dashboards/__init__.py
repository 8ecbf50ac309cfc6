"""What was found: Plotly figures and one self-contained page, from a run folder alone."""
