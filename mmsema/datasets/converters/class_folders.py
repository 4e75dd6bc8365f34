"""Data sets that come as one folder of pictures a class: checked, and copied to where the configs look for them."""

import shutil
from pathlib import Path
from typing import Iterable, List, Sequence, Tuple, Union

import cv2
from rich.progress import track

from .coco import ConversionError, is_held_out
from .files import read_picture

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_PER_CLASS = dict(train=5000, test=1000)
CIFAR10_SIDE = 32
RSSCN7 = ("aGrass", "bField", "cIndustry", "dRiverLake", "eForest", "fResident", "gParking")
RSSCN7_PER_CLASS = 400
RSSCN7_SIDE = 400
PathLike = Union[str, Path]


def _check(source: Path, target: Path, folders: Iterable[Path], classes: Sequence[str]) -> None:
    """Raise :class:`ConversionError` unless each of ``folders`` has the classes' folders and no others."""
    if source.resolve() == target.resolve():
        raise ConversionError(f"target must be another folder than source, got {target} twice")
    for folder in folders:
        inside = sorted(path.name for path in folder.glob("[!.]*") if path.is_dir())
        if inside != list(classes):
            raise ConversionError(
                f"{folder} must hold the folders {', '.join(classes)}, has {', '.join(inside) or 'none'}"
            )


def _copy(paths: Iterable[Path], target: Path, side: int) -> Tuple[int, List[str]]:
    """Copy the colour pictures of ``side`` pixels a side; returns their number, and a line for each other file."""
    target.mkdir(parents=True, exist_ok=True)
    copied, problems = 0, []
    for path in paths:
        image = read_picture(path, cv2.IMREAD_UNCHANGED)
        if image is None or image.shape != (side, side, 3):
            what = "is not a picture" if image is None else f"has the shape {image.shape}"
            problems.append(f"{path} {what}, {(side, side, 3)} is needed: left out")
        else:
            shutil.copyfile(path, target / path.name)
            copied += 1
    return copied, problems


def convert_cifar10(source: PathLike, target: PathLike) -> Tuple[List[str], List[str]]:
    """Copy ``source/{train,test}/<class>/*`` to ``target``, every picture having been opened and measured.

    Returns:
        What was done; and, one line each, what was left out (files that are no picture of 32 x 32) or is missing.

    Raises:
        ConversionError: a class's folder is not there, there are others, or ``target`` is ``source``.
    """
    source, target = Path(source), Path(target)
    _check(source, target, [source / name for name in CIFAR10_PER_CLASS], CIFAR10)
    lines, problems = [], []
    for name, expected in CIFAR10_PER_CLASS.items():
        total = 0
        for label in track(CIFAR10, f"Copying {name}"):
            folder = source / name / label
            count, left_out = _copy(sorted(folder.iterdir()), target / name / label, CIFAR10_SIDE)
            problems += left_out
            if count != expected:
                problems.append(f"{folder} has {count} pictures, CIFAR-10 has {expected} there")
            total += count
        lines.append(f"{target / name}: {total} pictures of {len(CIFAR10)} classes")
    return lines, problems


def convert_rsscn7(source: PathLike, target: PathLike) -> Tuple[List[str], List[str]]:
    """Copy ``source/<class>/*`` to ``target/{train,test}/<class>``, every picture having been opened and measured.

    A picture goes to ``test`` if :func:`mmsema.datasets.converters.coco.is_held_out` says so of its name.

    Returns:
        What was done; and, one line each, what was left out (files that are no picture of 400 x 400) or is missing.

    Raises:
        ConversionError: a class's folder is not there, there are others, or ``target`` is ``source``.
    """
    source, target = Path(source), Path(target)
    _check(source, target, [source], RSSCN7)
    totals, problems = dict(train=0, test=0), []
    for label in track(RSSCN7, "Copying"):
        paths = sorted((source / label).iterdir())
        found = 0
        for name in totals:
            part = [path for path in paths if is_held_out(path.stem) == (name == "test")]
            count, left_out = _copy(part, target / name / label, RSSCN7_SIDE)
            totals[name] += count
            found += count
            problems += left_out
        if found != RSSCN7_PER_CLASS:
            problems.append(f"{source / label} has {found} pictures, RSSCN7 has {RSSCN7_PER_CLASS} there")
    return [f"{target / name}: {count} pictures of {len(RSSCN7)} classes" for name, count in totals.items()], problems
