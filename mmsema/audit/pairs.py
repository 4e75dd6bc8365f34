"""Pictures with label maps, as mmseg's BaseSegDataset reads them."""

import os
from pathlib import Path
from typing import List, Optional, Tuple, Union

import numpy as np
from PIL import Image

from .pictures import Progress, check_pictures, find_files, in_threads, quiet, spread, walk
from .remember import watch
from .report import Report

QUICK_MAPS = 400  # label maps that the quick form decodes


def _read_map(path: str) -> Tuple[str, str, Tuple[int, int], np.ndarray]:
    """Cause, detail, (width, height) and the values that occur."""
    none = np.zeros(0, int)
    try:
        with Image.open(path) as image:
            if image.mode in ("L", "P"):
                return "", "", image.size, np.flatnonzero(image.histogram())
            values = np.asarray(image)
            if values.ndim != 2 or values.dtype.kind not in "iub":
                return "map-wrong", f"mode {image.mode}", image.size, none
            return "", "", image.size, np.unique(values)
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        return "picture-unreadable", str(error).replace(path, "file"), (0, 0), none
    except Exception as error:  # a last resort, so that the map is named
        return "picture-unreadable", f"{type(error).__name__}: {error}", (0, 0), none


def _stems(report: Report, folder: str, suffix: str) -> List[str]:
    """Names below ``folder`` that end in ``suffix``, without it."""
    if not os.path.isdir(folder):
        report.add("folder-missing", folder)
        return []
    return sorted(name[: -len(suffix) or None] for name in walk(report, folder) if name.endswith(suffix))


def audit_pairs(
    img_dir: Union[str, os.PathLike],
    map_dir: Union[str, os.PathLike, None],
    num_classes: Optional[int] = None,
    ann_file: Union[str, os.PathLike] = "",
    img_suffix: str = ".jpg",
    map_suffix: str = ".png",
    reduce_zero_label: bool = False,
    ignore_index: int = 255,
    use: str = "train",
    pictures: str = "all",
    exif: bool = True,
    decoder: str = "cv2",
    progress: Progress = quiet,
) -> Report:
    """Audit pictures and their label maps of the same names.

    Args:
        map_dir: None: there are no maps.
        num_classes: values must be below it, or ``ignore_index``; None: values are not compared.
        ann_file: list of names without endings; empty: all pictures in ``img_dir``.
        reduce_zero_label: 0 means "not looked at" and the classes start at 1.
        ignore_index: what means "not looked at" in the maps.
        use, pictures, exif, decoder, progress: as in :func:`mmsema.audit.audit_coco`. "quick" decodes
            :data:`QUICK_MAPS` maps.
    """
    img_dir, ann_file = str(img_dir), str(ann_file)
    report = Report(ann_file or img_dir, use)
    if ann_file and not os.path.isdir(ann_file):
        watch(report, ann_file)
        try:
            stems = [line.strip() for line in Path(ann_file).read_text(encoding="utf-8").splitlines()]
        except OSError as error:
            report.add("file-missing", ann_file, error.strerror or "")
            return report
        except UnicodeDecodeError as error:
            report.add("line-wrong", f"byte {error.start}", "not UTF-8")
            return report
    else:
        stems = _stems(report, img_dir, img_suffix)
    if not stems:
        report.add("set-empty", "no picture", f"ending: {img_suffix}")
    names = [stem + img_suffix for stem in stems]
    sizes = check_pictures(
        report, img_dir, names, lambda row: repr(names[row]), None, pictures, exif, decoder, progress
    )
    if map_dir is None or use == "predict" or not stems:
        return report
    map_dir = str(map_dir)
    map_names = [stem + map_suffix for stem in stems]

    def name(row: int) -> str:
        return repr(map_names[row])

    paths, good = find_files(report, map_dir, map_names, name, "map-missing")
    if not ann_file:
        unused = sorted(set(_stems(report, map_dir, map_suffix)) - set(stems))
        report.add_rows("map-unused", range(len(unused)), lambda row: repr(unused[row] + map_suffix))
    rows = np.flatnonzero(good)
    if pictures == "quick":
        rows = rows[spread(len(rows), QUICK_MAPS)]
    allowed = None if num_classes is None else {*range(num_classes + reduce_zero_label), ignore_index}
    reading = in_threads(lambda row: _read_map(paths[row]), rows.tolist(), progress, f"Reading {map_dir}")
    for row, (cause, detail, size, values) in reading:
        if cause:
            report.add(cause, name(row), detail)
            continue
        if sizes[row].any() and tuple(sizes[row]) != size:
            text = f"map {size[0]} x {size[1]}, picture {sizes[row, 0]} x {sizes[row, 1]}"
            report.add("picture-size", name(row), text)
        wrong = sorted(set(values.tolist()) - allowed) if allowed is not None else []
        if wrong:
            shown = ", ".join(map(str, wrong[:5])) + (", ..." if len(wrong) > 5 else "")
            report.add("map-values", name(row), f"{shown}; {num_classes} classes")
    return report
