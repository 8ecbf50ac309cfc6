"""Search spaces, one file per space; the name of the file is the name of the space.

The import of this package loads neither torch nor Ray nor Optuna; `load` and the spaces load Optuna's distributions.
"""

from search_spaces._space import Space, load, names

__all__ = ["Space", "load", "names"]
