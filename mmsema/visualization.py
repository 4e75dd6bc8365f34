"""Pictures of objects that can be read: also small pictures, and pictures full of objects."""

from functools import lru_cache
from typing import List, Optional, Sequence, Tuple, Union

import cv2
import matplotlib
import numpy as np
from mmdet.visualization import DetLocalVisualizer
from mmengine.config import Config, ConfigDict
from mmengine.structures import InstanceData
from PIL import Image, ImageDraw, ImageFont

from .registry import VISUALIZERS

LABELS = ("auto", "all", "none")
SMALLEST = 512  # pictures with a shorter long side are enlarged by a whole number
FILL = 0.35  # of a mask's colour over the picture
COVER = 0.1  # a label may lie on this share of another object
OTHER = 0.6  # a box that shares less than this (IoU) with its mask's own is drawn beside the mask
Color = Tuple[int, int, int]  # RGB
Box = Tuple[float, float, float, float]  # left, top, right, bottom
COLORS: Tuple[Color, ...] = (
    (255, 69, 58),
    (10, 132, 255),
    (48, 209, 88),
    (255, 159, 10),
    (191, 90, 242),
    (0, 199, 190),
    (255, 214, 10),
    (255, 100, 170),
    (172, 142, 104),
)


def enlargement(height: int, width: int) -> int:
    """By how much a picture is enlarged before anything is drawn on it: 1 from 512 pixels on."""
    return -(-SMALLEST // max(height, width))


def shades(color: Color) -> List[Color]:
    """A class's colour, a lighter and a darker form."""
    return [color, *(tuple(int(0.6 * c + 0.4 * end) for c in color) for end in (255, 0))]


def choose_colors(
    labels: Sequence[int], boxes: np.ndarray, palette: Union[None, str, np.ndarray, Sequence[Color]]
) -> List[Color]:
    """A colour for every object, such that neighbours differ where that is possible.

    Args:
        labels: the objects' classes; where all are the same, any colours, otherwise shades of the class's colour.
        boxes: (n, 4), left, top, right, bottom.
        palette: colours of the classes; :data:`COLORS` for None and for a text; mmdet's inferencer gives "random"
            for classes without colours.
    """
    named = palette is None or isinstance(palette, str) or not len(palette)
    palette = [tuple(map(int, color)) for color in (COLORS if named else palette)]
    single = len(set(labels)) < 2
    reach = 0.25 * np.sqrt((boxes[:, 2:] - boxes[:, :2]).clip(0).prod(1))[:, None]
    low, high = boxes[:, :2] - reach, boxes[:, 2:] + reach
    chosen: List[Color] = []
    used = dict.fromkeys(COLORS, 0)
    for i, label in enumerate(labels):
        near = ((low[:i] < high[i]) & (low[i] < high[:i])).all(1)
        taken = [color for color, close in zip(chosen, near, strict=True) if close]
        # the one that the fewest neighbours have; among those the rarest in the picture, or the class's own
        if single:
            color = min(COLORS, key=lambda color: (taken.count(color), used[color]))
            used[color] += 1
        else:
            color = min(shades(palette[label % len(palette)]), key=taken.count)
        chosen.append(color)
    return chosen


def _overlap(box: Box, others: np.ndarray) -> np.ndarray:
    """The area that a box shares with each of ``others``, (n, 4)."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    return (high - low).clip(0).prod(1)


def place_labels(
    boxes: np.ndarray, sizes: Sequence[Tuple[float, float]], picture: Tuple[int, int], labels: str
) -> List[Optional[Tuple[float, float]]]:
    """Left upper corners of the objects' labels, None for those that are left out.

    A label goes above its object, below it, beside it or, if the object is large, inside. With ``labels`` "auto" it is
    left out where it would leave the picture, lie on another label, or cover more than a tenth of another object; with
    "all" it goes where it covers least. Objects come first that are first in the list.

    Args:
        boxes: (n, 4), left, top, right, bottom.
        sizes: width and height of every label.
        picture: width and height of the picture.
        labels: "auto", "all" or "none".
    """
    areas = (boxes[:, 2:] - boxes[:, :2]).clip(1).prod(1)
    placed = np.zeros((0, 4))
    corners: List[Optional[Tuple[float, float]]] = []
    for i, ((left, top, right, bottom), (width, height)) in enumerate(zip(boxes, sizes, strict=True)):
        best, least = None, np.inf
        if labels != "none":
            places = [(left, top - height), (left, bottom), (right, top), (left - width, top), (left, top)]
            for x, y in places:
                x, y = np.clip((x, y), 0, (max(picture[0] - width, 0), max(picture[1] - height, 0)))
                box = (x, y, x + width, y + height)
                hidden = _overlap(box, boxes) / areas
                own, hidden[i] = hidden[i], 0
                on_label = len(placed) and _overlap(box, placed).max() > 0
                bad = hidden.max() + max(own - 0.25, 0) + 10 * bool(on_label)
                if bad < least:
                    best, least = (x, y), bad
        if labels == "auto" and least > COVER:
            best = None
        if best is not None:
            placed = np.vstack([placed, [*best, best[0] + sizes[i][0], best[1] + sizes[i][1]]])
        corners.append(best)
    return corners


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)


def _arrays(instances: InstanceData) -> Tuple[np.ndarray, Optional[np.ndarray]]:
    """Boxes, (n, 4) float, and masks, (n, H, W) bool or None; boxes of the masks where the model gives none."""
    masks = instances.get("masks")
    if masks is not None:
        masks = masks.to_ndarray() if hasattr(masks, "to_ndarray") else np.asarray(masks)
        masks = masks.astype(bool)
    boxes = np.asarray(instances.bboxes, np.float64).reshape(-1, 4) if "bboxes" in instances else np.zeros((0, 4))
    if masks is not None and not boxes.any():  # some models fill them with zeros
        rectangles = [cv2.boundingRect(mask.astype(np.uint8)) for mask in masks]
        boxes = np.array([(x, y, x + w, y + h) for x, y, w, h in rectangles], np.float64).reshape(-1, 4)
    return boxes, masks


def _iou(one: Box, other: Box) -> float:
    shared = _overlap(one, np.array([other]))[0]
    return shared / max(sum((b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)) - shared, 1e-9)


def _draw_mask(canvas: np.ndarray, mask: np.ndarray, scale: int, color: Color, line: int) -> Box:
    """Draw a mask that is not empty, (H, W), on a picture ``scale`` times as large; returns its box there."""
    x, y, w, h = cv2.boundingRect(mask.astype(np.uint8))
    box = (x * scale, y * scale, (x + w) * scale, (y + h) * scale)
    x, y = max(x - 1, 0), max(y - 1, 0)
    part = np.float32(mask[y : y + h + 2, x : x + w + 2])
    smooth = cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    part = (smooth > 0.5).astype(np.uint8)
    x, y = x * scale, y * scale
    view = canvas[y : y + part.shape[0], x : x + part.shape[1]]
    view[part > 0] = (1 - FILL) * view[part > 0] + FILL * np.array(color)
    contours, _ = cv2.findContours(part, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(canvas, contours, -1, color, line, cv2.LINE_AA, offset=(x, y))
    return box


@VISUALIZERS.register_module()
class DetVisualizer(DetLocalVisualizer):
    """mmdet's visualizer with other instances: outlines, filled lightly, and labels only where there is room.

    Lines and text scale with the picture, and pictures of less than 512 pixels are enlarged by a whole number. Objects
    with a mask get a box only if it is not the mask's. Classes have their colours, of which neighbours get different
    shades; where all objects are of one class, neighbours get different colours. The name of the only class that there
    is is not written.

    Args:
        name, image, vis_backends, save_dir: as in mmengine's Visualizer.
        labels: "auto" leaves out labels that would cover something, "all" draws them nevertheless, "none" draws none.
    """

    def __init__(
        self,
        name: str = "visualizer",
        image: Optional[np.ndarray] = None,
        vis_backends: Optional[List[dict]] = None,
        save_dir: Optional[str] = None,
        labels: str = "auto",
    ) -> None:
        super().__init__(name=name, image=image, vis_backends=vis_backends, save_dir=save_dir)
        self.labels = labels

    @property
    def labels(self) -> str:
        return self._labels

    @labels.setter
    def labels(self, labels: str) -> None:
        if labels not in LABELS:
            raise ValueError(f"labels must be one of {', '.join(LABELS)}, got {labels!r}")
        self._labels = labels

    def draw(self, image: np.ndarray, instances: InstanceData) -> np.ndarray:
        """The picture, (H, W, 3) uint8 RGB, with the instances on it, (k H, k W, 3) with k of :func:`enlargement`.

        Args:
            image: the picture.
            instances: ``labels``, and ``bboxes``, (n, 4), or ``masks``, (n, H, W), or both; where there are ``scores``
                they are written; ``label_names`` replace the classes' names.
        """
        return self._draw_instances(image, instances, *map(self.dataset_meta.get, ("classes", "palette")))

    def _draw_instances(
        self,
        image: np.ndarray,
        instances: InstanceData,
        classes: Optional[Sequence[str]],
        palette: Optional[Sequence[Color]],
    ) -> np.ndarray:
        height, width = image.shape[:2]
        scale = enlargement(height, width)
        canvas = cv2.resize(image, (width * scale, height * scale), interpolation=cv2.INTER_CUBIC)
        if not len(instances):
            return canvas
        side = np.sqrt(height * width) * scale
        if "scores" in instances:
            instances = instances[np.argsort(-np.asarray(instances.scores), kind="stable")]
        names = classes or [f"class {i}" for i in range(2 + max(instances.labels))]
        boxes, masks = _arrays(instances)
        boxes = boxes * scale
        object_side = np.median(np.sqrt((boxes[:, 2:] - boxes[:, :2]).clip(0).prod(1)))
        line = max(1, round(min(side / 250, object_side / 16)))
        text = max(11, round(min(side / 40, object_side / 2)))
        labels = [int(label) for label in instances.labels]
        colors = choose_colors(labels, boxes, palette)
        for i in np.argsort(-(boxes[:, 2:] - boxes[:, :2]).prod(1)):  # large ones first: small ones stay visible
            own = None
            if masks is not None and masks[i].any():
                own = _draw_mask(canvas, masks[i], scale, colors[i], line)
            if own is None or _iou(own, boxes[i]) < OTHER:
                corners = np.round(boxes[i]).astype(int).tolist()
                cv2.rectangle(canvas, corners[:2], corners[2:], colors[i], line, cv2.LINE_AA)
        texts = [names[label] if len(names) > 1 else "" for label in labels]  # the only class goes without saying
        if "label_names" in instances:
            texts = list(instances.label_names)
        if "scores" in instances:
            texts = [f"{name} {score:.2f}".strip() for name, score in zip(texts, instances.scores, strict=True)]
        return self._draw_labels(canvas, boxes, texts, colors, _font(text)) if any(texts) else canvas

    def _draw_labels(
        self,
        canvas: np.ndarray,
        boxes: np.ndarray,
        texts: Sequence[str],
        colors: Sequence[Color],
        font: ImageFont.FreeTypeFont,
    ) -> np.ndarray:
        pad = font.size // 5
        sizes = [(font.getlength(text) + 2 * pad, font.size + 2 * pad) for text in texts]
        corners = place_labels(boxes, sizes, canvas.shape[1::-1], self.labels)
        picture = Image.fromarray(canvas)
        draw = ImageDraw.Draw(picture)
        for corner, (width, height), text, color in zip(corners, sizes, texts, colors, strict=True):
            if corner is not None:
                x, y = corner
                draw.rectangle((x, y, x + width, y + height), fill=color)
                light = np.dot(color, (0.299, 0.587, 0.114)) > 140
                draw.text((x + pad, y + height / 2), text, font=font, fill="black" if light else "white", anchor="lm")
        return np.asarray(picture)


def readable(cfg: Config, labels: str = "auto") -> ConfigDict:
    """The visualizer of a detector's config: :class:`DetVisualizer` for mmdet's own or none; any other stays."""
    given = cfg.get("visualizer") or ConfigDict(type="DetLocalVisualizer")
    if given.type != "DetLocalVisualizer":
        return given
    kept = {key: value for key, value in given.items() if key in ("name", "vis_backends", "save_dir")}
    return ConfigDict(type="mmsema.DetVisualizer", labels=labels, **kept)
