"""Generate a COCO-format instance-segmentation data set of textured, overlapping shapes as real JPEG files."""

import json
import math
import os
from pathlib import Path
from typing import Dict, List, Optional, Tuple, Union

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from rich.progress import track

CLASSES = ("circle", "square", "triangle", "star")
TEXTURES = ("dots", "checks", "stripes", "gradient")  # of the classes in turn; colours are drawn for every shape
SPLITS = ("train", "val")
SUPERSAMPLING = 4  # shapes are rasterised this much finer, which gives smooth edges
RLE_SHARE = 0.15  # of the single shapes' masks are stored as compressed RLE, as some annotation tools do
MIN_VISIBLE = 0.8  # this share of every shape, at least, stays visible under those drawn later

Mask = np.ndarray  # (H, W) bool


def _outline(name: str, angle: float) -> np.ndarray:
    """Corners of a shape in the unit disc, (n, 2)."""
    corners = {"circle": 64, "square": 4, "triangle": 3, "star": 10}[name]
    t = angle + np.arange(corners) * 2 * math.pi / corners
    r = np.where(np.arange(corners) % 2, 0.42, 1.0) if name == "star" else 1.0
    return np.stack([r * np.cos(t), r * np.sin(t)], 1)


def _coverage(name: str, center: np.ndarray, radius: float, angle: float, size: Tuple[int, int]) -> np.ndarray:
    """How much of each pixel a shape covers, (H, W) float32 in [0, 1]."""
    height, width = size
    canvas = np.zeros((height * SUPERSAMPLING, width * SUPERSAMPLING), np.uint8)
    points = np.round((center + radius * _outline(name, angle)) * SUPERSAMPLING).astype(np.int32)
    cv2.fillPoly(canvas, [points], 255)
    return cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _color(rng: np.random.Generator, saturation: Tuple[int, int], value: Tuple[int, int]) -> np.ndarray:
    hsv = np.array([[[rng.integers(180), rng.integers(*saturation), rng.integers(*value)]]], np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)[0, 0].astype(np.float32)


def _noise(rng: np.random.Generator, size: Tuple[int, int], cell: int) -> np.ndarray:
    """Smooth noise, (H, W, 1) in [0, 1], with features of about ``cell`` pixels."""
    coarse = rng.random((size[0] // cell + 2, size[1] // cell + 2)).astype(np.float32)
    return cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC).clip(0, 1)[..., None]


def _texture(
    rng: np.random.Generator, size: Tuple[int, int], pattern: str, colors: Tuple[np.ndarray, np.ndarray]
) -> np.ndarray:
    """A pattern in two colours, at a random angle and period, (H, W, 3)."""
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float32)
    angle, period = rng.uniform(0, math.pi), rng.uniform(6, 12)
    u = (x * math.cos(angle) + y * math.sin(angle)) / period
    v = (y * math.cos(angle) - x * math.sin(angle)) / period
    if pattern == "dots":
        blend = (u % 1 - 0.5) ** 2 + (v % 1 - 0.5) ** 2 < 0.09
    elif pattern == "checks":
        blend = (np.sin(2 * math.pi * u) > 0) ^ (np.sin(2 * math.pi * v) > 0)
    elif pattern == "stripes":
        blend = np.sin(2 * math.pi * u) > 0
    else:  # gradient
        blend = (u - u.min()) / np.ptp(u)
    blend = cv2.GaussianBlur(blend.astype(np.float32), (3, 3), 0.6)[..., None]
    return colors[0] * (1 - blend) + colors[1] * blend


def _background(rng: np.random.Generator, size: Tuple[int, int]) -> np.ndarray:
    """A pale gradient with clouds and grain."""
    first, second = (_color(rng, (5, 60), (110, 240)) for _ in range(2))
    image = _texture(rng, size, "gradient", (first, second))
    image = image + 24 * (_noise(rng, size, int(rng.integers(24, 50))) - 0.5)
    return image + rng.normal(0, 3, (*size, 1)).astype(np.float32)


def _paint(image: np.ndarray, coverage: np.ndarray, pattern: np.ndarray) -> np.ndarray:
    shadow = cv2.GaussianBlur(np.roll(coverage, (2, 2), (0, 1)), (7, 7), 2)[..., None]
    image = image * (1 - 0.35 * shadow)
    alpha = coverage[..., None]
    return image * (1 - alpha) + pattern * alpha


def _segmentation(mask: Mask, as_rle: bool) -> Union[dict, List[List[float]]]:
    """Polygons of a mask; compressed RLE where asked for or where it has a hole, which polygons cannot say."""
    zoom = 8  # contours run through pixel centres; on a finer grid these lie close to the pixels' outer edges
    fine = np.kron(mask.astype(np.uint8), np.ones((zoom, zoom), np.uint8))
    contours, hierarchy = cv2.findContours(fine, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    parts = [c for c in contours if cv2.contourArea(c) >= 12 * zoom**2]  # without the slivers that overlaps leave
    if as_rle or not parts or (hierarchy[0, :, 3] >= 0).any():
        rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        return dict(size=rle["size"], counts=rle["counts"].decode())
    outlines = [cv2.approxPolyDP(part, zoom / 2, True).reshape(-1, 2) for part in parts]
    return [((outline + 0.5) / zoom).round(2).flatten().tolist() for outline in outlines if len(outline) >= 3]


def _uncompressed_rle(mask: Mask) -> dict:
    """The form COCO uses for crowds: run lengths in column order, starting with zeros."""
    flat = mask.flatten(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    bounds = np.concatenate([[0], changes, [flat.size]])
    counts = np.diff(bounds).tolist()
    return dict(size=list(mask.shape), counts=[0, *counts] if flat[0] else counts)


def draw_picture(rng: np.random.Generator) -> Tuple[np.ndarray, List[dict]]:
    """One picture, (H, W, 3) uint8 BGR, and its annotations in COCO's form without ids."""
    size = (int(rng.integers(88, 129)), int(rng.integers(88, 129)))
    image = _background(rng, size)
    items: List[Tuple[int, Mask, bool]] = []  # class, visible pixels, crowd

    def add(cover: np.ndarray, label: int, crowd: bool) -> bool:
        nonlocal image
        mask = cover > 0.5
        left = [int((visible & ~mask).sum()) / full for (_, visible, _), full in zip(items, full_areas, strict=True)]
        if mask.sum() < 80 or any(share < MIN_VISIBLE for share in left):
            return False
        for i, (other, visible, is_crowd) in enumerate(items):
            items[i] = (other, visible & ~mask, is_crowd)
        items.append((label, mask, crowd))
        full_areas.append(int(mask.sum()))
        first, second = _color(rng, (140, 256), (90, 256)), _color(rng, (60, 256), (60, 256))
        colors = (first, first + rng.uniform(0.3, 0.7) * (second - first))
        image = _paint(image, cover, _texture(rng, size, TEXTURES[label], colors))
        return True

    full_areas: List[int] = []
    if rng.random() < 0.12:  # a crowd: many small shapes of one class under one annotation
        label = int(rng.integers(len(CLASSES)))
        middle, spread = rng.uniform(0.3, 0.7, 2) * size[::-1], rng.uniform(10, 16)
        covers = [
            _coverage(CLASSES[label], middle + rng.normal(0, spread, 2), rng.uniform(3.5, 5), rng.uniform(0, 6.3), size)
            for _ in range(rng.integers(10, 20))
        ]
        add(np.max(covers, axis=0), label, True)
    wanted, shapes = int(rng.integers(2, 6)), 0
    for _ in range(4 * wanted):
        label = int(rng.integers(len(CLASSES)))
        radius = float(np.exp(rng.uniform(math.log(14), math.log(32))))
        center = rng.uniform(0.5 * radius, np.array(size[::-1]) - 0.5 * radius)
        shapes += add(_coverage(CLASSES[label], center, radius, rng.uniform(0, 6.3), size), label, False)
        if shapes == wanted:
            break
    annotations = []
    for label, mask, crowd in items:
        segmentation = _uncompressed_rle(mask) if crowd else _segmentation(mask, as_rle=rng.random() < RLE_SHARE)
        rle = segmentation
        if not isinstance(segmentation, dict) or crowd:
            rle = coco_mask.frPyObjects(segmentation, *size)
        if isinstance(rle, list):
            rle = coco_mask.merge(rle)
        annotations.append(
            dict(
                category_id=label + 1,
                bbox=coco_mask.toBbox(rle).tolist(),
                area=int(coco_mask.area(rle)),
                iscrowd=int(crowd),
                segmentation=segmentation,
            )
        )
    return image.clip(0, 255).astype(np.uint8), annotations


def make_split(root: Path, split: str, count: int, seed: int) -> Path:
    """Write ``root/<split>/*.jpg`` and ``root/annotations/instances_<split>.json``; returns the latter's path.

    The same seed gives the same bytes: picture i depends on (seed, split, i) alone. The annotation file is written last
    and in one step, so that it exists only beside all of its pictures.
    """
    folder = root / split
    folder.mkdir(parents=True, exist_ok=True)
    target = root / "annotations" / f"instances_{split}.json"
    target.parent.mkdir(exist_ok=True)
    images, annotations = [], []
    for index in track(range(count), f"Writing {count} pictures to {folder}"):
        image, drawn = draw_picture(np.random.default_rng([seed, SPLITS.index(split), index]))
        name = f"{index:06d}.jpg"
        (folder / name).write_bytes(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes())
        images.append(dict(id=index + 1, file_name=name, height=image.shape[0], width=image.shape[1]))
        for annotation in drawn:
            annotations.append(dict(id=len(annotations) + 1, image_id=index + 1, **annotation))
    categories = [dict(id=i + 1, name=name, supercategory="shape") for i, name in enumerate(CLASSES)]
    info = dict(description=f"mmsema shapes, {split}, seed {seed}", version="1", year=2026)
    text = json.dumps(dict(info=info, licenses=[], images=images, annotations=annotations, categories=categories))
    partial = target.with_suffix(".partial")
    partial.write_text(text)
    os.replace(partial, target)
    return target


def make_shapes(root: Union[str, Path], counts: Dict[str, int], seed: int = 0) -> Optional[List[Path]]:
    """Write the splits named in ``counts`` (train, val) below ``root``; see :func:`make_split`."""
    unknown = sorted(set(counts) - set(SPLITS))
    if unknown:
        raise ValueError(f"counts must name splits from {SPLITS}, got {unknown}")
    return [make_split(Path(root), split, count, seed) for split, count in counts.items()]
