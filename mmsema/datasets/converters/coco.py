"""Write COCO annotation files, and split pictures by the hash of their name."""

import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Dict, List, Optional, Sequence, Tuple

import numpy as np
from pycocotools import mask as coco_mask

TEST_SHARE = 5  # one picture in so many is held out


class ConversionError(Exception):
    """The data is not what the converter needs; its text is one line for the person at the terminal."""


@dataclass
class Picture:
    """A picture file and the objects in it: COCO annotations without ids, ``category`` being the class's name."""

    path: Path
    height: int
    width: int
    objects: List[dict] = field(default_factory=list)
    source: Optional[Path] = None  # the file that says so, where it is one


def _digest(name: str) -> int:
    return int(hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest(), 16)  # of names that are not UTF-8 too


def is_held_out(name: str) -> bool:
    """Whether the picture of that name (without folder and suffix) belongs to the test split.

    It does if the SHA-256 of the name, read as one big number, is divisible by five. So the split depends on nothing
    but the name: more pictures, another order or another machine move none from one side to the other.
    """
    return _digest(name) % TEST_SHARE == 0


def hold_out(paths: Sequence[str]) -> Tuple[List[bool], List[str]]:
    """Which pictures :func:`is_held_out` holds out; where that is none or all, one, and a line that says which.

    It is the one whose path has the smallest SHA-256: some sets have one name in many folders.
    """
    held = [is_held_out(PurePosixPath(path).stem) for path in paths]
    if len(held) < 2 or len(set(held)) == 2:
        return held, []
    first = min(paths, key=_digest)
    return [path == first for path in paths], [f"the names put all pictures on one side, so {first} alone is held out"]


def split(pictures: Sequence[Picture]) -> Tuple[List[Picture], List[Picture]]:
    """Training and held-out pictures, in their order; see :func:`is_held_out`."""
    parts: Tuple[List[Picture], List[Picture]] = ([], [])
    for picture in pictures:
        parts[is_held_out(picture.path.stem)].append(picture)
    return parts


def mask_annotation(mask: np.ndarray, category: str) -> dict:
    """A mask, (H, W) bool, as a COCO annotation with compressed RLE, exact to the pixel, holes and parts included."""
    rle = coco_mask.encode(np.asfortranarray(mask, np.uint8))
    return dict(
        category=category,
        bbox=coco_mask.toBbox(rle).tolist(),
        area=int(coco_mask.area(rle)),
        iscrowd=0,
        segmentation=dict(size=rle["size"], counts=rle["counts"].decode()),
    )


def write_coco(
    target: Path, pictures: Sequence[Picture], classes: Sequence[str], root: Path, description: str
) -> Dict[str, list]:
    """Write an annotation file with the pictures' paths relative to ``root``; returns its content.

    It is written in one step, so that no half of it is ever found. Categories and pictures count from 1.
    """
    ids = {name: i for i, name in enumerate(classes, 1)}
    images, annotations = [], []
    for number, picture in enumerate(pictures, 1):
        name = os.path.relpath(picture.path, root).replace(os.sep, "/")
        images.append(dict(id=number, file_name=name, height=picture.height, width=picture.width))
        for one in picture.objects:
            head = dict(id=len(annotations) + 1, image_id=number, category_id=ids[one["category"]])
            annotations.append({**head, **{key: value for key, value in one.items() if key != "category"}})
    categories = [dict(id=i, name=name) for name, i in ids.items()]
    content = dict(info=dict(description=description), images=images, annotations=annotations, categories=categories)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    partial.write_text(json.dumps(content))
    os.replace(partial, target)
    return content
