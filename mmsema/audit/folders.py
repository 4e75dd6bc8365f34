"""Image folders and lists, as mmpretrain's CustomDataset (and so ImageNet) reads them."""

import os
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

from .coco import check_classes
from .pictures import Progress, check_pictures, list_folder, quiet, walk
from .remember import watch
from .report import Report

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif")  # mmpretrain's


def _fitting(report: Report, root: str, extensions: Tuple[str, ...]) -> List[str]:
    """Names below ``root`` of the files that mmpretrain takes."""
    names = []
    for name in walk(report, root):
        if name.lower().endswith(extensions):
            names.append(name)
        else:
            report.add("file-other", repr(name))
    return names


def _class_folders(report: Report, root: str, classes: Any, extensions: Tuple[str, ...]) -> List[str]:
    """Names of all pictures; the class folders themselves are compared with ``classes``."""
    watch(report, root)
    folders = sorted(name for name, entry in list_folder(root).items() if entry.is_dir())
    for folder in (folder for folder in folders if folder.startswith(".")):
        report.add("folder-hidden", repr(folder))
    report.class_folders = folders
    if classes is not None:
        if set(classes) & set(folders):  # else the folders are called otherwise, as ImageNet's are
            check_classes(report, classes, folders, "folder")
        if len(classes) != len(folders):
            report.add("folder-count", f"{len(folders)} folders", f"{len(classes)} classes")
    names = []
    for folder in folders:
        inside = [os.path.join(folder, name) for name in _fitting(report, os.path.join(root, folder), extensions)]
        if not inside and not folder.startswith("."):
            report.add("folder-empty", repr(folder))
        names += inside
    return names


def _list_lines(report: Report, ann_file: str, classes: Any, with_label: bool) -> List[str]:
    """File names of an annotation list."""
    watch(report, ann_file)
    try:
        with open(ann_file, encoding="utf-8") as file:
            lines = [line.rstrip("\n\r") for line in file]
    except OSError as error:
        report.add("file-missing", ann_file, error.strerror or "")
        return []
    except UnicodeDecodeError as error:
        report.add("line-wrong", f"byte {error.start}", "not UTF-8")
        return []
    if not with_label:
        return lines
    names: List[str] = []
    labels: Dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        name, _, label = line.strip().rpartition(" ")
        if not name or not label.lstrip("-").isdecimal():
            report.add("line-wrong", f"line {number}", repr(line[:60]))
            continue
        if int(label) < 0 or (classes is not None and int(label) >= len(classes)):
            most = f" to {len(classes) - 1}" if classes is not None else ""
            report.add("label-outside", f"line {number}", f"{label} for {name!r}, expected 0{most}")
        if labels.setdefault(name, int(label)) != int(label):
            report.add("label-twice", repr(name), f"{labels[name]} and {label}")
        names.append(name)
    return names


def audit_folders(
    root: Union[str, os.PathLike],
    ann_file: Union[str, os.PathLike] = "",
    classes: Optional[Sequence[str]] = None,
    use: str = "train",
    with_label: bool = True,
    extensions: Sequence[str] = EXTENSIONS,
    pictures: str = "all",
    exif: bool = True,
    decoder: str = "cv2",
    progress: Progress = quiet,
) -> Report:
    """Audit a folder with one folder for each class, or a list of files and labels.

    Args:
        root: folder of the class folders, or that the list's names start from.
        ann_file: list with a file name and a label on each line; empty: the folders are the classes.
        classes: names in the order of the labels; None: not compared.
        with_label: otherwise all pictures below ``root``, or a list of file names.
        use, pictures, exif, decoder, progress: as in :func:`mmsema.audit.audit_coco`.
    """
    root, ann_file = str(root), str(ann_file)
    report = Report(ann_file or root, use)
    if not os.path.isdir(root):
        report.add("folder-missing", root)
        return report
    if ann_file:
        names = _list_lines(report, ann_file, classes, with_label)
    elif with_label:
        names = _class_folders(report, root, classes, tuple(extensions))
    else:
        names = _fitting(report, root, tuple(extensions))
    if not names:
        report.add("set-empty", "no picture", "" if ann_file else f"endings: {' '.join(sorted(extensions))}")
    if len(set(names)) != len(names):
        seen: set = set()
        twice = [row for row, name in enumerate(names) if name in seen or seen.add(name)]
        report.add_rows("picture-twice", twice, lambda row: repr(names[row]))
    check_pictures(report, root, names, lambda row: repr(names[row]), None, pictures, exif, decoder, progress)
    return report
