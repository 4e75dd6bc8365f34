"""A set that was found fit for use is not audited again until one of its files changes.

Kept in ``$XDG_CACHE_HOME/mmsema/audit`` (``~/.cache`` without that variable), one small JSON file for each set.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Optional

from .report import Report

FORMS = ("quick", "all", "decode")  # each looks at more than the one before


def folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmsema" / "audit"


def _code() -> str:
    """Changes when the audit does."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _line(entry: os.DirEntry) -> str:
    try:
        state = entry.stat()
    except OSError:  # a link to nothing
        state = entry.stat(follow_symlinks=False)
    return f"{entry.name}\0{state.st_size}\0{state.st_mtime_ns}\n"


def _state(path: str) -> str:
    """Changes with size or time of a file, or of any file in a folder, new and removed ones included."""
    try:
        if os.path.isdir(path):
            with os.scandir(path) as entries:
                text = "".join(sorted(map(_line, entries)))
        else:
            state = os.stat(path)
            text = f"{state.st_size}\0{state.st_mtime_ns}\n"
        text = f"{os.path.realpath(path)}\n{text}"
    except (OSError, ValueError):  # nothing there, or no name that a file can have
        return ""
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()


def watch(report: Report, path: str) -> None:
    """The result depends on the file or folder as it is now; to be called before it is read."""
    path = os.path.normpath(path)
    if path not in report.states:
        report.states[path] = _state(path)


def _is_unchanged(report: Report) -> bool:
    return all(_state(path) == state for path, state in report.states.items())


def _file(settings: str, form: str) -> Path:
    return folder() / f"{hashlib.sha256(settings.encode()).hexdigest()[:32]}-{form}.json"


def recall(settings: str, form: str) -> Optional[Report]:
    """The report on a set with these settings, of this form or one that looks at more, if nothing has changed since."""
    for better in FORMS[FORMS.index(form) :]:
        try:
            content = json.loads(_file(settings, better).read_text(encoding="utf-8"))
            if content["code"] != _code():
                continue
            report = Report.from_dict(content["report"])
            if _is_unchanged(report):
                return report
        except (OSError, ValueError, KeyError, TypeError):  # nothing there, or not what this version writes
            continue
    return None


def store(settings: str, form: str, report: Report) -> None:
    """Remember ``report`` unless it forbids the use of the set, or the set has changed since it was read.

    A cache that cannot be written is no error.
    """
    if report.stops or not _is_unchanged(report):
        return
    try:
        path = _file(settings, form)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        content = dict(code=_code(), report=report.to_dict())
        partial.write_text(json.dumps(content), encoding="utf-8")
        os.replace(partial, path)
    except OSError:
        return
