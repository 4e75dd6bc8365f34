"""COCO's segmentations: polygons, and run lengths in both of their forms."""

from itertools import chain
from typing import Any, List, Optional

import numpy as np
from pycocotools import mask as coco_mask

from .report import Report, shown

CHUNK = 50_000  # annotations whose polygons are looked at together
LEAST_AREA = 1e-6  # square pixels; what a polygon on one line has by rounding


def decode_counts(text: str) -> Optional[np.ndarray]:
    """Run lengths from COCO's compressed form, or None where it is none.

    Six bits a character, five of them of a number, the sixth saying that it goes on; signed; each run from the fourth
    on is the difference to the run two before it. pycocotools reads the same but tells nobody when runs are missing.
    """
    try:
        code = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError:
        return None
    if not len(code) or code.min() < 0 or code.max() > 63 or code[-1] & 32:
        return None
    ends = np.flatnonzero((code & 32) == 0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    length = ends - starts + 1
    if length.max() > 7:  # more than 32 bits
        return None
    place = np.arange(len(code)) - np.repeat(starts, length)
    values = np.add.reduceat((code & 31) << (5 * place), starts)
    values -= np.where(code[ends] & 16, 1 << (5 * length), 0)
    values[1::2] = np.cumsum(values[1::2])
    values[2::2] = np.cumsum(values[2::2])
    return values


def _check_rle(rle: dict, height: float, width: float) -> tuple:
    """Cause and detail of what is wrong with an RLE; cause is empty when all is well."""
    counts, size = rle.get("counts"), rle.get("size")
    if not isinstance(counts, (list, str)) or size is None:
        return "rle-wrong", shown(rle, ("counts", "size"))
    if not isinstance(size, list) or size != [height, width]:
        return "rle-size", f"size {size}, image {height:g} x {width:g}"
    if isinstance(counts, str):
        runs = decode_counts(counts)
        if runs is None:
            return "rle-runs", "counts are not COCO's compressed form"
    else:
        if not set(map(type, counts)) <= {int}:
            return "rle-runs", "counts are not whole numbers"
        runs = np.array(counts, np.float64)
    if (runs < 0).any():
        return "rle-runs", f"run of {runs.min():g} pixels"
    if runs.sum() != height * width:
        return "rle-runs", f"runs of {runs.sum():g} pixels in all, image has {height * width:g}"
    return ("", "") if runs[1::2].sum() else ("mask-empty", "RLE of zeros")


def is_polygon(part: list) -> bool:
    """Whether a part of a segmentation has the length of a polygon; others are left out by mmdet."""
    return len(part) % 2 == 0 and len(part) >= 6


def _kind(segmentation: Any, use: str) -> str:
    """Cause for what can be told without numbers; "rle" and "polygons" when there is none."""
    if not segmentation:
        return "mask-missing"
    if isinstance(segmentation, dict):
        return "rle"
    if not isinstance(segmentation, list) or set(map(type, segmentation)) != {list}:
        return "mask-wrong"
    good = list(map(is_polygon, segmentation))
    # pycocotools takes four numbers for a box if they come first, and raises on fewer
    if not any(good) or (use == "evaluate" and len(segmentation[0]) <= 4):
        return "polygon-short"
    return "polygons" if all(good) else "polygon-part"


def _check_polygons(segmentations: List[list], sizes: np.ndarray) -> tuple:
    """(N,) twice: not finite; covering nothing of a picture. ``sizes`` is (N, 2), width and height."""
    parts = [list(filter(is_polygon, parts)) for parts in segmentations]
    owner = np.repeat(np.arange(len(parts)), [len(p) for p in parts])
    parts = list(chain.from_iterable(parts))
    length = np.array(list(map(len, parts)), np.int64) // 2
    flat = list(chain.from_iterable(parts))
    if not set(map(type, flat)) <= {int, float}:
        flat = [value if type(value) in (int, float) else np.nan for value in flat]
    x, y = np.array(flat, np.float64).reshape(-1, 2).T
    starts = np.cumsum(length) - length
    broken = np.zeros(len(segmentations), bool)
    point_owner = np.repeat(owner, length)
    broken[point_owner[~(np.isfinite(x) & np.isfinite(y))]] = True
    x, y = np.nan_to_num(x, posinf=0, neginf=0), np.nan_to_num(y, posinf=0, neginf=0)
    after = np.arange(1, len(x) + 1)
    after[starts + length - 1] = starts
    dx, dy = x - np.repeat(x[starts], length), y - np.repeat(y[starts], length)
    fan = dx * dy[after] - dx[after] * dy  # twice the triangles from the first corner
    area = np.abs(np.add.reduceat(fan, starts)) / 2
    width, height = sizes[owner].T
    covers = (np.maximum.reduceat(x, starts) > 0) & (np.minimum.reduceat(x, starts) < width)
    covers &= (np.maximum.reduceat(y, starts) > 0) & (np.minimum.reduceat(y, starts) < height)
    crossing = covers & (area <= LEAST_AREA) & (np.add.reduceat(np.abs(fan), starts) / 2 > LEAST_AREA)
    for part in np.flatnonzero(crossing & ~broken[owner]):  # as a bow tie does, whose halves have opposite signs
        area[part] = coco_mask.area(coco_mask.frPyObjects([parts[part]], int(height[part]), int(width[part])))[0]
    full = np.zeros(len(segmentations), bool)
    full[owner[covers & (area > LEAST_AREA)]] = True
    return broken, ~broken & ~full


def check_masks(
    report: Report, annotations: List[dict], sizes: np.ndarray, good: np.ndarray, poly2mask: bool = True
) -> np.ndarray:
    """Which annotations' segmentations are usable.

    Args:
        sizes: (N, 2), width and height of the annotations' images.
        good: (N,), whose boxes and areas are good; the others' masks may well be empty.
        poly2mask: as mmdet's LoadAnnotations.
    """
    usable = np.ones(len(annotations), bool)

    def add(cause: str, row: int, detail: str = "") -> None:
        if cause == "mask-empty" and not good[row]:
            return
        usable[row] &= cause == "polygon-part"
        image = f"image {annotations[row]['image_id']}"
        report.add(cause, f"annotation {annotations[row]['id']}", f"{image}, {detail}" if detail else image)

    for start in range(0, len(annotations), CHUNK):
        rows = []
        for row in range(start, min(start + CHUNK, len(annotations))):
            segmentation = annotations[row].get("segmentation")
            kind = _kind(segmentation, report.use)
            if kind == "rle":
                width, height = sizes[row]
                cause, detail = _check_rle(segmentation, height, width)
                if cause:
                    add(cause, row, detail)
                elif not poly2mask and report.use == "train":
                    add("rle-unused", row)
            elif kind in ("polygons", "polygon-part"):
                rows.append(row)
            if kind not in ("rle", "polygons"):
                add(kind, row, f"segmentation {segmentation!r:.60}")
        if rows:
            broken, empty = _check_polygons([annotations[row]["segmentation"] for row in rows], sizes[rows])
            for row in np.array(rows)[broken]:
                add("polygon-not-finite", row, f"segmentation {annotations[row]['segmentation']!r:.60}")
            for row in np.array(rows)[empty]:
                add("mask-empty", row, f"segmentation {annotations[row]['segmentation']!r:.60}")
    return usable
