"""What may vary: one file per search space; the file's name is the space's name.

Importing this package loads neither torch nor Ray nor Optuna; `load` and the spaces load Optuna's distributions.
"""

from search_spaces._space import Space, load, names

__all__ = ["Space", "load", "names"]
