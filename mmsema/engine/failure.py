"""How a run that fails ends: one line for the terminal, the rest in its log, no process left behind."""

import logging
import sys
import traceback
from contextlib import suppress
from typing import Callable

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..checkpoint import CheckpointError
from .errors import UsageError
from .hooks import NotFiniteError, end_workers

TRACEBACK = "Traceback (most recent call last):"

# what classes raise at settings that they cannot take; a full disk or memory is none
REFUSALS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    FileNotFoundError,
    ImportError,
    LookupError,
    TypeError,
    ValueError,
)


class RunFailed(Exception):
    """Training or testing that failed after it had begun; its text is one line."""


def run_or_fail(runner: Runner, function: Callable) -> None:
    """Call ``function()``, a method of ``runner``.

    Raises:
        UsageError: what the config asks for could not be built, before anything began.
        RunFailed: it raised anything else; the traceback is in the log.
    """
    started = _Started()
    runner.register_hook(started)
    for handler in runner.logger.handlers:
        _leave_disk_to_others(handler)
    try:
        _call(function)
    except (UsageError, CheckpointError):  # a checkpoint that does not fit the model
        raise
    except Exception as error:
        log = _write_to_log(runner.logger, traceback.format_exc())
        what = what_happened(error) + (f" (traceback in {log})" if log else "")
        if isinstance(error, REFUSALS) and not started.yet:
            raise UsageError(f"the config cannot be used: {what}") from error
        raise RunFailed(what) from error


def what_happened(error: Exception) -> str:
    """An error's text in one line; where it has none, the line of code that raised it."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    ends = [i for i, line in enumerate(lines) if line.rstrip().endswith(TRACEBACK)]
    if ends:  # of a worker; what it raised follows the indented lines of the code
        raised = [line for line in lines[ends[-1] + 1 :] if not line.startswith(" ")]
        return (raised or lines)[0].strip()[:500]
    if isinstance(error, NotFiniteError):
        return lines[0]
    if not lines:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        lines = [f"{frame.line} ({frame.filename}:{frame.lineno})"]
    if lines[0].endswith(":"):  # and what it announces
        lines[0] += f" {lines[1].strip()}" if len(lines) > 1 else ""
    return f"{type(error).__name__}: {lines[0].strip()[:500]}"


class _Started(Hook):
    """Whether the runner has built everything and begins to work."""

    yet = False

    def before_train(self, runner: Runner) -> None:
        self.yet = True

    before_val = before_test = before_train


def _call(function: Callable) -> None:
    try:
        function()
    except BaseException:
        end_workers()
        raise


def _leave_disk_to_others(handler: logging.Handler) -> None:
    """Say nothing of lines that a log has no room for: a full disk is told by what cannot do without it."""
    told = handler.handleError

    def handle(record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            told(record)

    handler.handleError = handle  # type: ignore[method-assign]


def _write_to_log(logger: logging.Logger, text: str) -> str:
    """Append to the log's files, not to the terminal; returns the name of the last file."""
    record = logger.makeRecord(logger.name, logging.ERROR, "", 0, text, (), None)
    name = ""
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler) and handler.stream and is_main_process():
            with suppress(OSError):  # the disk is full, of which emit() says nothing
                handler.stream.write(handler.format(record) + handler.terminator)
                handler.flush()
                name = handler.baseFilename
    return name
