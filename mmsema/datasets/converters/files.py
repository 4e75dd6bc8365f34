"""The files of a folder: found behind links too, and read whatever their names are."""

import os
from pathlib import Path
from typing import Iterator, List, Optional, Tuple

import cv2
import numpy as np


def walk(folder: Path) -> Iterator[Tuple[Path, List[Path]]]:
    """``folder`` and every folder below it, each with its files, sorted; links are followed, hidden names passed over.

    No folder comes twice: one that a link leads to, and that is below ``folder`` or holds it, is not entered there.
    """
    root = folder.resolve()
    seen = {root}

    def is_new(path: Path) -> bool:
        real = path.resolve()
        if real in seen or (path.is_symlink() and (root in real.parents or real in root.parents)):
            return False
        seen.add(real)
        return True

    for place, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in sorted(folders) if name[0] != "." and is_new(Path(place, name))]
        yield Path(place), [Path(place, name) for name in sorted(files) if name[0] != "."]


def read_picture(path: Path, flag: int = cv2.IMREAD_COLOR) -> Optional[np.ndarray]:
    """As ``cv2.imread``, which ends the process at a name that is not UTF-8; None if it is no picture."""
    try:
        return cv2.imdecode(np.fromfile(path, np.uint8), flag)
    except (cv2.error, OSError):  # cv2.error: an empty file
        return None
