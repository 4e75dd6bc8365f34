"""What the person at the terminal can mend."""

import os
from pathlib import Path
from typing import Optional, Sequence


class UsageError(Exception):
    """Something the caller can mend; its text is one line for the person at the terminal."""


class ConfigFaults(UsageError):
    """Everything that is wrong with a config, one line each; as text, the tools print ``error: `` before every line."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\nerror: ".join(lines))
        self.lines = list(lines)


def problem_of_folder(folder: Path) -> Optional[str]:
    """Why nothing can be written to a folder, which need not exist yet; None if it can."""
    folder = folder.absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists() or path.is_symlink())
    if not there.is_dir():
        return f"{there} is a file, not a folder"
    return None if os.access(there, os.W_OK | os.X_OK) else f"{there} cannot be written to"


def require_folder(argument: str, folder: Path) -> None:
    """Raise :class:`UsageError` where nothing could be written to ``folder``; it is not made yet."""
    problem = problem_of_folder(folder)
    if problem:
        raise UsageError(f"{argument} {folder}: {problem}")
