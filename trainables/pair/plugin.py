"""Plug-ins: a user's Python file as part of a trial, executed once per process to register models and data sets."""

from __future__ import annotations

import sys
from types import ModuleType

from trainables.registry import SOURCE, Source
from trainables.spec import digest_of

_SOURCE = "__sweeper_source__"


class PluginError(ValueError):
    """A user's file cannot be executed; the message names file, line and reason."""


def load_source(text: str, where: str = "the trial's source") -> ModuleType:
    """Return `text` executed as a module, at most once per process.

    Its registrations replace those of other files, such as an earlier version of the same file. If the process executed
    the same text before, the call only restores its registrations.

    Args:
        text: Python source.
        where: Name of the source in messages.

    Raises:
        PluginError: The text is not Python, or its execution fails.
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
    sys.modules[name] = module  # dataclasses and pickle look up their module
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
    """Return `, line N` for the innermost frame of `error` in the file `where`; empty without such a frame."""
    if isinstance(error, SyntaxError):
        return f", line {error.lineno}"
    trace, line = error.__traceback__, None
    while trace:
        if trace.tb_frame.f_code.co_filename == where:
            line = trace.tb_lineno
        trace = trace.tb_next
    return f", line {line}" if line else ""
