"""Write a detector's config for one's own pictures: sizes, batch and schedule from the data, the audit first."""

import json
import os
import shlex
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import List, Optional, Tuple

import numpy as np
from rich.progress import track

from .datasets.converters.coco import ConversionError
from .datasets.own import OwnData, Part, find_own_data
from .engine.config import PathLike, UsageError, require_file
from .engine.errors import require_folder
from .hub import data_folder
from .models.sema import ARCHITECTURES

LONG_SIDE = 320  # larger pictures are reduced to it, which keeps an iteration below a second on two cores
CROP = 256
SMALLEST = 16  # objects that would be smaller than this are trained on in crops of pictures as they are
PASSES = dict(boxes=2600, masks=2000)  # pictures that training sees in all: minutes on two cores
BATCH = 4


@dataclass
class Facts:
    """What the config depends on."""

    pictures: Tuple[int, int]  # to train on, to validate
    sizes: Counter  # (width, height)
    sides: np.ndarray  # square roots of the boxes' areas, in pixels
    most: int  # objects in a picture
    masks: bool  # every object has one

    @property
    def long_side(self) -> float:
        return float(np.median([max(size) for size in self.sizes.elements()]))


def _objects(data: OwnData) -> List[dict]:
    """Annotations of both parts that are neither crowds nor to be ignored."""
    both = [*data.train.content["annotations"], *data.val.content["annotations"]]
    return [one for one in both if not one.get("iscrowd") and not one.get("ignore")]


def read_facts(data: OwnData) -> Facts:
    """Count and measure what the annotation files say.

    Raises:
        UsageError: there is nothing to train on.
    """
    parts = (data.train.content, data.val.content)
    annotations = _objects(data)
    sizes = Counter((image["width"], image["height"]) for part in parts for image in part["images"])
    if not annotations or not data.train.content["annotations"]:
        raise UsageError(f"{data.train.file} has no objects to train on")
    per_picture = Counter((i, one["image_id"]) for i, part in enumerate(parts) for one in part["annotations"])
    return Facts(
        pictures=tuple(len(part["images"]) for part in parts),
        sizes=sizes,
        sides=np.sqrt([max(one["bbox"][2] * one["bbox"][3], 1) for one in annotations]),
        most=max(per_picture.values()),
        masks=all(one.get("segmentation") for one in annotations),
    )


def _pipelines(facts: Facts) -> Tuple[str, float, str]:
    """Lines of the config that bring pictures to size, by how much objects shrink, and why."""
    middle, low = np.median(facts.sides), np.percentile(facts.sides, 5)
    shrink = min(1.0, LONG_SIDE / facts.long_side)
    smallest = min(min(size) for size in facts.sizes)
    mixed = max(max(size) for size in facts.sizes) > 2 * LONG_SIDE
    if smallest >= CROP and (middle * shrink < SMALLEST or (shrink == 1 and mixed)):
        lines = [
            f'size_train = dict(type="RandomCrop", crop_size=({CROP}, {CROP}))',
            'size_test = dict(type="Resize", scale_factor=1.0)  # whole pictures as they are',
        ]
        return (
            "\n".join(lines),
            1.0,
            f"crops of {CROP} pixels, because half of the objects are below {middle:.0f} pixels",
        )
    side = max(32, int(-(-facts.long_side * shrink // 32) * 32))
    shrink = side / facts.long_side
    lines = [
        f'size_train = dict(type="Resize", scale=({side}, {side}), keep_ratio=True)  # the long side',
        "size_test = size_train",
    ]
    why = f"long side {side}, at which 95 % of the objects are above {low * shrink:.0f} pixels"
    return "\n".join(lines), shrink, why


def _scales(sides: np.ndarray) -> List[int]:
    """Anchor scales on strides 4 to 32; [4] is boxes of 16 to 128 pixels."""
    low, high = np.percentile(sides, [5, 95])
    return [*([2] if low < 12 else []), 4, *([8] if high > 190 else [])]


def _path(path: Path, start: Path) -> str:
    """How a config in ``start`` names a file: from there if both are in one checkout, otherwise as a whole."""
    root = data_folder().resolve()
    near = root in start.resolve().parents or root == start.resolve()
    return os.path.relpath(path.resolve(), start.resolve()) if near else str(path.resolve())


def config_text(data: OwnData, facts: Facts, out: Path, folder: Path, arch: str, weights: Optional[str]) -> str:
    """The config's text."""
    sizing, shrink, _ = _pipelines(facts)
    channels = [ARCHITECTURES[arch]["embed_dims"] * 2**stage for stage in range(4)]
    train, val = facts.pictures
    epochs = int(np.clip(round(PASSES["masks" if facts.masks else "boxes"] / train), 3, 60))
    objects = max(100, int(-(-facts.most * 1.2 // 50) * 50))
    kind = "mask-rcnn" if facts.masks else "faster-rcnn"
    work_dir = f"work_dirs/{out.stem}"

    def part(one: Part) -> str:
        where = f"ann_file={_text(_relative(one.file, folder))},\n        "
        return where + f"data_prefix=dict(img={_text(_relative(one.pictures, folder))}),"

    classes = f"num_classes={len(data.classes)}"
    heads = f"bbox_head=dict({classes})" + (f", mask_head=dict({classes})" if facts.masks else "")
    start = f', init_cfg=dict(type="Pretrained", checkpoint={_text(weights)}, prefix="backbone.")' if weights else ""
    base = _path(data_folder() / f"configs/_base_/{kind}_sema-pico_fpn.py", out.parent)
    name = "Mask R-CNN" if facts.masks else "Faster R-CNN"
    title = f"{name}, SEMA-{arch}, on {folder}: {train} + {val} pictures, {len(data.classes)} classes"
    return f'''# {title}.
# Written by tools/make_config.py, to be changed as you like.
# {shlex.join(["python", "tools/train.py", str(out)])}
# {shlex.join(["python", "tools/test.py", str(out), f"{work_dir}/epoch_{epochs}.pth", "--show-dir", "pictures"])}
_base_ = {_text(base)}

classes = ({", ".join(map(_text, data.classes))},)
model = dict(
    backbone=dict(arch="{arch}"{start}),
    neck=dict(in_channels={channels}),
    rpn_head=dict(anchor_generator=dict(scales={_scales(facts.sides * shrink)})),
    roi_head=dict({heads}),
    test_cfg=dict(rpn=dict(nms_pre=1000, max_per_img={objects + 100}), rcnn=dict(max_per_img={objects})),
)
{sizing}
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask={facts.masks}),
    size_train,
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    size_test,
    dict(type="LoadAnnotations", with_bbox=True, with_mask={facts.masks}),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
data_root = {_text(f"{folder}/")}
train_dataloader = dict(
    batch_size={BATCH},
    num_workers=1,
    dataset=dict(
        data_root=data_root,
        {part(data.train)}
        metainfo=dict(classes=classes),
        filter_cfg=dict(filter_empty_gt=True, min_size=0),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    dataset=dict(
        data_root=data_root,
        {part(data.val)}
        metainfo=dict(classes=classes),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
metric = {["bbox", "segm"] if facts.masks else ["bbox"]}
val_evaluator = dict(ann_file=data_root + val_dataloader["dataset"]["ann_file"], metric=metric, classwise=True)
test_evaluator = val_evaluator

max_epochs = {epochs}  # {epochs * -(-train // BATCH)} iterations
train_cfg = dict(max_epochs=max_epochs, val_interval={-(-epochs // 3)})
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", by_epoch=True, begin=0, end=max_epochs, eta_min=1e-5, convert_to_iter_based=True),
]
'''


def _text(text: str) -> str:
    """A string as Python writes it, in double quotes."""
    return json.dumps(text, ensure_ascii=False)


def _relative(path: Path, folder: Path) -> str:
    text = os.path.relpath(path, folder).replace(os.sep, "/")
    return "" if text == "." else text + ("/" if path.is_dir() else "")


def audit(data: OwnData, masks: bool) -> List[str]:
    """What the audit has to say of both parts.

    Raises:
        UsageError: the data is not fit for training or evaluation.
    """
    from .audit import audit_coco

    lines, stops, drops = [], [], []
    for part, use in ((data.train, "train"), (data.val, "evaluate")):
        report = audit_coco(part.file, part.pictures, data.classes, use=use, masks=masks, progress=track)
        lines += report.lines()
        stops += report.stops
        drops += report.drops  # they may be why nothing is left
    if stops:
        raise UsageError("; ".join(stops + drops))
    return lines


def make_config(
    folder: PathLike,
    out: PathLike,
    arch: str = "pico",
    name: str = "object",
    weights: Optional[PathLike] = None,
) -> List[str]:
    """Find the data below ``folder``, audit it, and write a config for it to ``out``.

    Args:
        folder: pictures and annotations; see :func:`mmsema.datasets.own.find_own_data`.
        out: the config, a .py file that does not exist yet.
        arch: the backbone's.
        name: the class of objects that are given as masks.
        weights: a detector's checkpoint, whose backbone is started from.

    Returns:
        Lines for the person at the terminal.

    Raises:
        UsageError: an argument or the data cannot be used; one line says why.
    """
    folder, out = Path(folder), Path(out)
    if out.suffix != ".py" or "." in out.stem:
        raise UsageError(f"out must be a .py file without other dots in its name, got {out}")
    if out.exists():
        raise UsageError(f"{out} exists already; remove it or name another file")
    require_folder("out", out.parent)
    if arch not in ARCHITECTURES:
        raise UsageError(f"backbone must be one of {', '.join(ARCHITECTURES)}, got {arch!r}")
    if weights is not None:
        require_file(str(weights), "weights")
    try:
        data = find_own_data(folder, name)
    except ConversionError as error:
        raise UsageError(str(error)) from None
    except OSError as error:
        raise UsageError(f"{error.filename or folder}: {error.strerror or error}") from None
    lines = [*data.lines, *(f"left out: {problem}" for problem in data.problems)]
    objects = _objects(data)
    bare = [one.get("id") for one in objects if not one.get("segmentation")]
    if 0 < len(bare) < len(objects):
        some = f"{len(bare)} of {len(objects)} objects have no mask (the first: annotation {bare[0]})"
        lines.append(f"{some}, so boxes alone are learnt")
    both = data.train.content["annotations"] + data.val.content["annotations"]
    crowds = sum(bool(one.get("iscrowd")) for one in both)
    if crowds:
        lines.append(f"{crowds} crowds are passed over, in training and evaluation")
    lines += audit(data, masks=not bare)
    facts = read_facts(data)
    out.parent.mkdir(parents=True, exist_ok=True)
    text = config_text(data, facts, out, folder, arch, weights and str(weights))
    out.write_text(text, encoding="utf-8", errors="backslashreplace")  # so Python writes what is not UTF-8 in a name
    (width, height), many = facts.sizes.most_common(1)[0]
    train, val = facts.pictures
    classes = ", ".join(data.classes[:8]) + (", ..." if len(data.classes) > 8 else "")
    lines += [
        f"{train} + {val} pictures of {len(facts.sizes)} sizes, most often {width} x {height} ({many} pictures)",
        f"{len(facts.sides)} objects with {'masks' if facts.masks else 'boxes alone'}, up to {facts.most} in a picture",
        f"{len(data.classes)} classes: {classes}",
        f"trains on {_pipelines(facts)[2]}",
        f"wrote {out}; it names the commands that train and test",
    ]
    return lines
