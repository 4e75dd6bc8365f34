"""Planted faults: real files with one thing wrong each, and the line that the audit must give.

``FAULTS`` has them by name. ``fault.plant(root)`` makes a clean set below ``root`` and spoils it, ``fault.audit(root)``
audits it, and ``fault.is_named(root, report)`` says whether the report is exactly as it must be. ``dataset`` and
``config`` name the clean sets, edited or not, as a config does.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, List, Optional

import numpy as np
from mmengine.config import Config
from PIL import Image
from pycocotools import mask as coco_mask

from mmsema.audit import CAUSES, Report, audit_coco, audit_folders, audit_pairs

CLASSES = ("circle", "square", "star")
SIZE = (64, 48)  # width, height
NAMES = ("a.jpg", "b.png", "sub folder/ü 空.jpg", "empty.jpg")


def picture(path: Path, seed: int, size: tuple = SIZE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), np.uint8)
    Image.fromarray(noise).save(path)


def triangle(x: float = 4, y: float = 4) -> List[float]:
    return [x, y, x + 20, y, x, y + 16]


def annotation(number: int, image: int, category: int, segmentation, crowd: int = 0) -> dict:
    rle = segmentation if isinstance(segmentation, dict) else coco_mask.frPyObjects(segmentation, *SIZE[::-1])
    rle = coco_mask.merge(rle) if isinstance(rle, list) else rle
    if isinstance(rle["counts"], list):
        rle = coco_mask.frPyObjects(rle, *SIZE[::-1])
    box, area = coco_mask.toBbox(rle).tolist(), float(coco_mask.area(rle))
    shape = dict(segmentation=segmentation, bbox=box, area=area, iscrowd=crowd)
    return dict(id=number, image_id=image, category_id=category, **shape)


def make_coco(root: Path) -> None:
    """Four pictures, one without annotations; polygons, both forms of RLE, a crowd; gaps in the ids."""
    for seed, name in enumerate(NAMES):
        picture(root / "images" / name, seed)
    filled = np.zeros(SIZE[::-1], np.uint8, order="F")
    filled[10:30, 8:40] = 1
    rle = coco_mask.encode(filled)
    compressed = dict(size=list(rle["size"]), counts=rle["counts"].decode())
    crowd = dict(size=list(SIZE[::-1]), counts=[100, 700, SIZE[0] * SIZE[1] - 800])
    content = dict(
        images=[dict(id=i, file_name=name, width=SIZE[0], height=SIZE[1]) for i, name in enumerate(NAMES, 1)],
        annotations=[
            annotation(11, 1, 1, [triangle()]),
            annotation(12, 1, 3, compressed),
            annotation(13, 1, 7, crowd, crowd=1),
            annotation(14, 2, 3, [triangle(), triangle(30, 20)]),
            annotation(15, 3, 7, [triangle(30, 10)]),
            annotation(16, 3, 1, [triangle(1, 30)]),
        ],
        categories=[dict(id=number, name=name) for number, name in zip((1, 3, 7), CLASSES, strict=True)],
    )
    (root / "train.json").write_text(json.dumps(content))


def make_folders(root: Path) -> None:
    for seed, name in enumerate(name for name in CLASSES for _ in range(2)):
        picture(root / "train" / name / f"{seed}.jpg", seed)
    lines = [f"{name}/{i}.jpg {i // 2}" for i, name in enumerate(name for name in CLASSES for _ in range(2))]
    (root / "list.txt").write_text("\n".join(lines) + "\n")


def make_pairs(root: Path) -> None:
    for seed in range(3):
        picture(root / "img" / f"{seed}.jpg", seed)
        values = np.random.default_rng(seed).choice([0, 1, 2, 255], SIZE[::-1]).astype(np.uint8)
        (root / "map").mkdir(exist_ok=True)
        Image.fromarray(values).save(root / "map" / f"{seed}.png")


MAKE = dict(coco=make_coco, folders=make_folders, list=make_folders, pairs=make_pairs)


def audit(kind: str, root: Path, **settings) -> Report:
    if kind == "coco":
        return audit_coco(root / "train.json", root / "images", **dict(dict(classes=CLASSES), **settings))
    if kind == "pairs":
        return audit_pairs(root / "img", root / "map", 3, **settings)
    return audit_folders(root / "train", root / "list.txt" if kind == "list" else "", CLASSES, **settings)


@dataclass(frozen=True)
class Fault:
    name: str
    kind: str  # coco, folders, list, pairs
    spoil: Callable[[Path], None]
    cause: str
    line: str
    count: int
    also: dict  # counts of causes that follow from it
    settings: dict

    def plant(self, root: Path) -> None:
        MAKE[self.kind](root)
        self.spoil(root)

    @property
    def rule(self) -> str:
        return CAUSES[self.cause].rule_for(self.settings.get("use", "train"))

    def audit(self, root: Path) -> Report:
        return audit(self.kind, root, **self.settings)

    def is_named(self, root: Path, report: Report) -> bool:
        """Whether the line is there (up to "..." where it ends in other people's words), and no other fault."""
        line = report.lines()[0]
        expected = f"{self.rule}: {self.line}".replace("{root}", str(root))
        same = line.startswith(expected[:-3]) if expected.endswith("...") else line == expected
        wanted = {self.cause: self.count, **self.also}
        found = {cause: n for cause, n in report.counts.items() if report.rule(cause) != "note"}
        return same and found == wanted


FAULTS: Dict[str, Fault] = {}


def fault(kind: str, cause: str, line: str, count: int = 1, also: Optional[dict] = None, **settings) -> Callable:
    def register(spoil: Callable) -> Callable:
        name = spoil.__name__
        FAULTS[name] = Fault(name, kind, spoil, cause, line, count, also or {}, settings)
        return spoil

    return register


def json_fault(cause: str, line: str, count: int = 1, **settings) -> Callable:
    """The decorated function changes the content of the annotation file."""

    def register(change: Callable) -> Callable:
        def spoil(root: Path) -> None:
            content = json.loads((root / "train.json").read_text())
            changed = change(content)
            (root / "train.json").write_text(json.dumps(content if changed is None else changed))

        spoil.__name__ = change.__name__
        fault("coco", cause, "{root}/train.json: " + line, count, **settings)(spoil)
        return change

    return register


def find(content: dict, number: int) -> dict:
    return next(entry for entry in content["annotations"] if entry["id"] == number)


def edit(root: Path, change) -> None:
    content = json.loads((root / "train.json").read_text())
    change(content)
    (root / "train.json").write_text(json.dumps(content))


def dataset(root: Path, kind: str, **settings) -> dict:
    if kind == "coco":
        prefix, metainfo = dict(img="images/"), dict(classes=CLASSES)
        named = dict(data_root=str(root), ann_file="train.json", data_prefix=prefix, metainfo=metainfo)
        return dict(dict(type="mmdet.CocoDataset", **named), **settings)
    if kind == "pairs":
        prefix, metainfo = dict(img_path="img", seg_map_path="map"), dict(classes=CLASSES)
        return dict(type="mmseg.BaseSegDataset", data_root=str(root), data_prefix=prefix, metainfo=metainfo, **settings)
    return dict(dict(type="mmpretrain.CustomDataset", data_prefix=str(root / "train"), ann_file=""), **settings)


def config(scope: str, **loaders) -> Config:
    return Config(dict(default_scope=scope, **{f"{key}_dataloader": dict(dataset=v) for key, v in loaders.items()}))
