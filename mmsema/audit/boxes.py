"""Whether boxes are where the objects are: x, y, width, height in pixels, and not another way to write a box."""

from typing import List, Optional

import numpy as np

from .masks import decode_counts, is_polygon
from .report import Report

SAMPLE = 1000  # annotations whose boxes are compared with their masks
FORM = "bbox is x, y, width, height in pixels"
CLOSE = 2.0, 0.25  # a box may differ by as many pixels, or by that share of the object's longer side


def _mask_box(segmentation: object) -> Optional[List[float]]:
    """Left, top, right, bottom of polygons or an RLE that are known to be good."""
    if isinstance(segmentation, list):
        parts = list(filter(is_polygon, segmentation))
        x, y = [value for part in parts for value in part[::2]], [value for part in parts for value in part[1::2]]
        return [min(x), min(y), max(x), max(y)]
    counts, height = segmentation["counts"], segmentation["size"][0]
    ends = np.cumsum(decode_counts(counts) if isinstance(counts, str) else counts).astype(np.int64)
    first, last = ends[: len(ends) // 2 * 2 : 2], ends[1::2] - 1  # of every run of ones, down the columns
    first, last = first[last >= first], last[last >= first]
    one_column = first // height == last // height
    top, bottom = np.where(one_column, first % height, 0), np.where(one_column, last % height, height - 1)
    return [first.min() // height, top.min(), last.max() // height + 1, bottom.max() + 1]


def check_places(
    report: Report, annotations: List[dict], rows: np.ndarray, boxes: np.ndarray, over: np.ndarray, masks: bool
) -> None:
    """Stop where more than half of the boxes reach over the edge, or are not around their masks.

    Args:
        rows: the usable annotations, those that are compared.
        boxes: (N, 4) of all annotations.
        over: (N,), which reach over the edge of their pictures.
        masks: the segmentations are used, and those of ``rows`` are good.
    """
    if 2 * over[rows].sum() > len(rows):
        row = next(row for row in rows if over[row])
        what = f"annotation {annotations[row]['id']}: bbox {annotations[row]['bbox']} reaches over the edge"
        report.add("boxes-misplaced", f"{over[rows].sum()} of {len(rows)}", f"{what}; {FORM}")
        return
    if not masks or not len(rows):
        return
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, min(SAMPLE, len(rows))).astype(int))]
    around = np.array([_mask_box(annotations[row]["segmentation"]) for row in rows], np.float64)
    x, y, width, height = boxes[rows].T
    difference = np.abs(np.stack([x, y, x + width, y + height], 1) - around).max(1)
    side = np.maximum(around[:, 2] - around[:, 0], around[:, 3] - around[:, 1])
    unlike = difference > np.maximum(CLOSE[0], CLOSE[1] * side)
    if 2 * unlike.sum() > len(rows):
        i = int(np.argmax(unlike))
        left, top, right, bottom = around[i]
        what = f"annotation {annotations[rows[i]]['id']}: bbox {annotations[rows[i]]['bbox']}, its mask in "
        what += f"[{left:g}, {top:g}, {right - left:g}, {bottom - top:g}]"
        report.add("boxes-misplaced", f"{unlike.sum()} of {len(rows)}", f"{what}; {FORM}")
