"""How a run that fails ends: one line for the terminal, the rest in its log, no process left behind."""

import logging
import traceback
from typing import Callable

from mmengine.dist import is_main_process
from mmengine.runner import Runner

from ..checkpoint import CheckpointError
from .errors import UsageError
from .hooks import NotFiniteError, end_workers


class RunFailed(Exception):
    """Training or testing that failed after it had begun; its text is one line."""


def run_or_fail(runner: Runner, function: Callable) -> None:
    """Call ``function()``, a method of ``runner``.

    Raises:
        RunFailed: it raised anything but what a user can mend before the run; the traceback is in the log.
    """
    try:
        _call(function)
    except (UsageError, CheckpointError):  # a checkpoint that does not fit the model
        raise
    except Exception as error:
        log = _write_to_log(runner.logger, traceback.format_exc())
        lines = [line for line in str(error).splitlines() if line.strip()]  # a worker's error is a whole traceback
        what = lines[-1].strip() if lines else "no reason given"
        if len(lines) < 2 and not isinstance(error, NotFiniteError):
            what = f"{type(error).__name__}: {what}"
        raise RunFailed(what + (f" (traceback in {log})" if log else "")) from error


def _call(function: Callable) -> None:
    try:
        function()
    except BaseException:
        end_workers()
        raise


def _write_to_log(logger: logging.Logger, text: str) -> str:
    """Append to the log's files, not to the terminal; returns the name of the last file."""
    record = logger.makeRecord(logger.name, logging.ERROR, "", 0, text, (), None)
    name = ""
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler) and is_main_process():
            try:
                handler.emit(record)
                name = handler.baseFilename
            except OSError:  # the disk is full
                pass
    return name
