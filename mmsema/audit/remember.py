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


def _state(entry: os.DirEntry) -> str:
    try:
        state = entry.stat()
    except OSError:  # a link to nothing
        state = entry.stat(follow_symlinks=False)
    return f"{entry.name}\0{state.st_size}\0{state.st_mtime_ns}\n"


def fingerprint(report: Report) -> str:
    """Of path, size and time of every file that the result came from, new and removed ones in its folders included."""
    digest = hashlib.sha256(_code().encode())
    for path in report.files:
        state = os.stat(path)
        digest.update(
            f"{os.path.abspath(path)}\0{state.st_size}\0{state.st_mtime_ns}\n".encode(errors="surrogateescape")
        )
    for path in sorted(set(report.folders)):
        with os.scandir(path) as entries:
            text = "".join(sorted(map(_state, entries)))
        digest.update(f"{os.path.realpath(path)}\n{text}".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _file(settings: str, form: str) -> Path:
    return folder() / f"{hashlib.sha256(settings.encode()).hexdigest()[:32]}-{form}.json"


def recall(settings: str, form: str) -> Optional[Report]:
    """The report on a set with these settings, of this form or one that looks at more, if nothing has changed since."""
    for better in FORMS[FORMS.index(form) :]:
        try:
            content = json.loads(_file(settings, better).read_text(encoding="utf-8"))
            report = Report.from_dict(content["report"])
            if content["fingerprint"] == fingerprint(report):
                return report
        except (OSError, ValueError, KeyError, TypeError):  # nothing there, or not what this version writes
            continue
    return None


def store(settings: str, form: str, report: Report) -> None:
    """Remember ``report`` unless it forbids the use of the set. A cache that cannot be written is no error."""
    if report.stops or report.not_audited:
        return
    try:
        path = _file(settings, form)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}")
        content = dict(fingerprint=fingerprint(report), report=report.to_dict())
        partial.write_text(json.dumps(content), encoding="utf-8")
        os.replace(partial, path)
    except OSError:
        return
