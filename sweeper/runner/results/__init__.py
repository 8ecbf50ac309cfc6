"""Results of a sweep: rows, verdict, figures, the best merge as a module or a file with a model card."""
