"""A user's Python file as part of a trial: its text is executed once per process and registers what it defines."""

from __future__ import annotations

import sys
from types import ModuleType

from trainables.registry import SOURCE, Source
from trainables.spec import digest_of

_SOURCE = "__sweeper_source__"


class PluginError(ValueError):
    """A user's file that cannot be executed; the message names file, line and reason."""


def load_source(text: str, where: str = "the trial's source") -> ModuleType:
    """Execute `text` as a module, once per process, and return the module.

    What it registers is what the names mean from then on, also where another file, such as an earlier version of
    this one, had bound them; a source that was executed before gets its names back without being executed again.

    Args:
        text: Python source.
        where: What to call it in messages.

    Raises:
        PluginError: The text is not Python or raises.
    """
    name = f"sweeper_source_{digest_of(text)}"
    if name in sys.modules:
        source: Source = vars(sys.modules[name])[_SOURCE]
        for registry, key, item in source.bound:
            registry.restore(key, item, source)
        return sys.modules[name]
    source, module = Source(name), ModuleType(name)
    module.__file__ = where
    vars(module)[_SOURCE] = source
    sys.modules[name] = module  # dataclasses and pickle look their module up
    outer = SOURCE.set(source)
    try:
        exec(compile(text, where, "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        for registry, key, _ in source.bound:
            registry.withdraw(key, source)
        line = line_in(error, where)
        raise PluginError(f"{where}{line}: {type(error).__name__}: {error}") from error
    finally:
        SOURCE.reset(outer)
    return module


def line_in(error: BaseException, where: str) -> str:
    """Return `, line N` for the innermost frame of `error` in the file `where`; empty where there is none."""
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}"
    trace, line = error.__traceback__, None
    while trace:
        if trace.tb_frame.f_code.co_filename == where:
            line = trace.tb_lineno
        trace = trace.tb_next
    return f", line {line}" if line else ""
