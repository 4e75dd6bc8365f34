"""The CSV file of a table. Several processes may add lines to it; it is whole at any moment."""

import csv
import fcntl
import io
import os
from contextlib import contextmanager
from pathlib import Path
from typing import Dict, Iterator, List, Optional

Line = Dict[str, str]


def read_lines(path: Path) -> List[Line]:
    """The lines of a table's file, none if there is no file."""
    if not path.is_file():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def find_line(lines: List[Line], **wanted: object) -> Optional[Line]:
    """The first line with these values."""
    return next((line for line in lines if all(line[key] == str(value) for key, value in wanted.items())), None)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Only one process at a time is in here with the same folder."""
    folder.mkdir(parents=True, exist_ok=True)
    number = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


def append_line(path: Path, line: Line) -> None:
    """Add a line, unless the file has one of the same row and seed."""
    with locked(path.parent):
        lines = read_lines(path)
        if find_line(lines, row=line["row"], seed=line["seed"]):
            return
        columns = list(dict.fromkeys(key for one in [*lines, line] for key in one))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows([*lines, line])
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text(text.getvalue())
        os.replace(partial, path)
