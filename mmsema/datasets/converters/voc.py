"""Pascal VOC's XML: ``*.xml`` with boxes beside or near the pictures, and lists of names in ``ImageSets/Main``."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Dict, List, Optional, Set, Tuple

import cv2
from rich.progress import track

from .coco import ConversionError, Picture
from .files import walk

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

    Of several pictures of that name, the one is meant that the XML calls ``filename``, suffix included.
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
            if len(same) != 1:
                raise ValueError(f"there are {len(same)} pictures of its name below {folder}")
            image = cv2.imread(str(same[0]))
            if image is None:
                raise ValueError(f"{same[0]} is not a picture that can be read")
            height, width = image.shape[:2]
            said = [root.findtext(f"size/{key}") or str(size) for key, size in (("width", width), ("height", height))]
            if said not in ([str(width), str(height)], ["0", "0"]):
                raise ValueError(f"it says {said[0]} x {said[1]}, the picture is {width} x {height}")
        except (ElementTree.ParseError, ValueError) as error:
            problems.append(f"{file}: {error}: the picture is left out")
            continue
        picture = Picture(same[0], height, width)
        for node in root.iter("object"):
            try:
                picture.objects.append(_object(node, width, height))
            except ValueError as error:
                problems.append(f"{file}: {error}: left out")
        pictures.append(picture)
    if not pictures:
        raise ConversionError(f"{folder} has no XML file with a picture of its name" + "".join(problems[:1]))
    return pictures, problems


def voc_split(folder: Path) -> Optional[Tuple[Set[str], Set[str]]]:
    """The names to train on and to validate on of all ``ImageSets/Main/train.txt`` and ``val.txt``, if both exist."""
    every = [path for place, files in walk(folder) if place.parts[-2:] == ("ImageSets", "Main") for path in files]
    lists = [[path for path in every if path.name == name] for name in ("train.txt", "val.txt")]
    if not all(lists):
        return None
    return tuple(
        {line.split()[0] for file in files for line in file.read_text().splitlines() if line.strip()} for files in lists
    )
