"""CIFAR-10 as folders of pictures: checked, and copied to where the configs look for it."""

import shutil
from pathlib import Path
from typing import List, Tuple, Union

import cv2
from rich.progress import track

from .coco import ConversionError
from .files import read_picture

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
PER_CLASS = dict(train=5000, test=1000)
SIDE = 32


def convert_cifar10(source: Union[str, Path], target: Union[str, Path]) -> Tuple[List[str], List[str]]:
    """Copy ``source/{train,test}/<class>/*`` to ``target``, every picture having been opened and measured.

    Returns:
        What was done; and, one line each, what was left out (files that are no picture of 32 x 32) or is missing.

    Raises:
        ConversionError: a class's folder is not there, there are others, or ``target`` is ``source``.
    """
    source, target = Path(source), Path(target)
    if source.resolve() == target.resolve():
        raise ConversionError(f"target must be another folder than source, got {target} twice")
    for name in PER_CLASS:
        inside = sorted(path.name for path in (source / name).iterdir()) if (source / name).is_dir() else []
        if inside != list(CLASSES):
            raise ConversionError(
                f"{source / name} must hold the folders {', '.join(CLASSES)}, has {', '.join(inside) or 'none'}"
            )
    lines, problems = [], []
    for name, expected in PER_CLASS.items():
        copied = 0
        for label in track(CLASSES, f"Copying {name}"):
            folder = target / name / label
            folder.mkdir(parents=True, exist_ok=True)
            count = 0
            for path in sorted((source / name / label).iterdir()):
                image = read_picture(path, cv2.IMREAD_UNCHANGED)
                if image is None or image.shape != (SIDE, SIDE, 3):
                    what = "is not a picture" if image is None else f"has the shape {image.shape}"
                    problems.append(f"{path} {what}, {(SIDE, SIDE, 3)} is needed: left out")
                else:
                    shutil.copyfile(path, folder / path.name)
                    count += 1
            if count != expected:
                problems.append(f"{source / name / label} has {count} pictures, CIFAR-10 has {expected} there")
            copied += count
        lines.append(f"{target / name}: {copied} pictures of {len(CLASSES)} classes")
    return lines, problems
