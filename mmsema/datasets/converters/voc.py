"""Pascal VOC's XML: ``*.xml`` with boxes beside or near the pictures, and lists of names in ``ImageSets/Main``."""

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Dict, List, Optional, Set, Tuple

from rich.progress import track

from .coco import ConversionError, Picture
from .files import read_picture, walk

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def _object(node: ElementTree.Element, width: int, height: int) -> dict:
    """A COCO annotation; pixels count from 1 in VOC, and the last belongs to the box.

    Raises:
        ValueError: the name or a corner is missing, or the box is empty.
    """
    name = (node.findtext("name") or "").strip()
    if not name:
        raise ValueError("an object has no name")
    try:
        left, top, right, bottom = (float(node.findtext(f"bndbox/{key}")) for key in ("xmin", "ymin", "xmax", "ymax"))
    except TypeError:
        raise ValueError(f"a {name} has no bndbox with xmin, ymin, xmax and ymax") from None
    x, y = max(left - 1, 0), max(top - 1, 0)
    w, h = min(right, width) - x, min(bottom, height) - y
    if not (w >= 1 and h >= 1) or right <= left or bottom <= top:
        raise ValueError(f"the box of a {name} is empty: {left:g}, {top:g}, {right:g}, {bottom:g}")
    hard = (node.findtext("difficult") or "0").strip() == "1"
    return dict(category=name, bbox=[x, y, w, h], area=w * h, iscrowd=int(hard), segmentation=[])


def read_voc(folder: Path) -> Tuple[List[Picture], List[str]]:
    """The pictures that have an XML file anywhere below ``folder``, sorted by the XML's name.

    Of several pictures of that name, the one is meant that the XML calls ``filename``, suffix included, and
    of several of these the one in the XML's own folder.
    A box without area is left out; a picture whose XML or file cannot be read, or says another size than the picture
    has, is left out as a whole. Objects marked difficult become crowds, which training and evaluation pass over.

    Returns:
        The pictures, and one line for everything that was left out.

    Raises:
        ConversionError: no XML file there has a picture.
    """
    found: Dict[str, List[Path]] = {}
    every = [path for _, files in walk(folder) for path in files]
    for path in every:
        if path.suffix.lower() in SUFFIXES:
            found.setdefault(path.stem, []).append(path)
    files = sorted((path for path in every if path.suffix == ".xml"), key=lambda path: path.stem)
    pictures, problems = [], []
    for file in track(files, "Reading XML"):
        same = found.get(file.stem, [])
        try:
            root = ElementTree.parse(file).getroot()
            if len(same) > 1:  # as VOC has them: JPEGImages/a.jpg, SegmentationClass/a.png
                same = [path for path in same if path.name == (root.findtext("filename") or "").strip()] or same
            if len(same) > 1:  # train/a.jpg, valid/a.jpg
                same = [path for path in same if path.parent == file.parent] or same
            if len(same) != 1:
                raise ValueError(f"there are {len(same)} pictures of its name below {folder}")
            image = read_picture(same[0])
            if image is None:
                raise ValueError(f"{same[0]} is not a picture that can be read")
            height, width = image.shape[:2]
            said = [float(root.findtext(f"size/{key}") or size) for key, size in (("width", width), ("height", height))]
            if said not in ([width, height], [0, 0]):
                raise ValueError(f"it says {said[0]:g} x {said[1]:g}, the picture is {width} x {height}")
        except (ElementTree.ParseError, ValueError) as error:
            problems.append(f"{file}: {error}: the picture is left out")
            continue
        picture = Picture(same[0], height, width, source=file)
        for node in root.iter("object"):
            try:
                picture.objects.append(_object(node, width, height))
            except ValueError as error:
                problems.append(f"{file}: {error}: left out")
        pictures.append(picture)
    if not pictures:
        first = f"; the first of {len(problems)} problems: {problems[0]}" if problems else ""
        raise ConversionError(f"{folder} has no XML file with a picture of its name{first}")
    return pictures, problems


def _listed(line: str, stems: Set[str]) -> str:
    """The picture that a line of a list names: all of it, or without the label 1, -1 or 0 at its end, or the suffix."""
    names = [line, re.sub(r"\s+(-1|0|1)$", "", line)]
    names += [Path(name).stem for name in names if Path(name).suffix.lower() in SUFFIXES]
    return next((name for name in names if name in stems), names[1])


def voc_split(folder: Path, stems: Set[str]) -> Optional[Tuple[Set[str], Set[str]]]:
    """The names to train on and to validate on of all ``ImageSets/Main/train.txt`` and ``val.txt``, if both exist.

    Args:
        folder: the data.
        stems: the names of the pictures, without suffix.

    Raises:
        ConversionError: a list is not UTF-8.
    """
    every = [path for place, files in walk(folder) if place.parts[-2:] == ("ImageSets", "Main") for path in files]
    sides = []
    for name in ("train.txt", "val.txt"):
        lines: List[str] = []
        for path in (path for path in every if path.name == name):
            try:
                lines += path.read_text(encoding="utf-8-sig").splitlines()
            except UnicodeDecodeError as error:
                raise ConversionError(f"{path} is not UTF-8, at byte {error.start}; save it as UTF-8") from None
        sides.append({_listed(line.strip(), stems) for line in lines if line.strip()})
    return (sides[0], sides[1]) if {path.name for path in every} >= {"train.txt", "val.txt"} else None
