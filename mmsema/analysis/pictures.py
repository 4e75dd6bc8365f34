"""Pictures of results: predictions beside the truth, and the curves of a training run."""

import json
from pathlib import Path
from typing import List, Sequence, Tuple

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

Instance = Tuple[int, np.ndarray, str]  # class, (H, W) mask, caption


def _draw(axes: plt.Axes, image: np.ndarray, instances: Sequence[Instance], title: str) -> None:
    height, width = image.shape[:2]
    axes.imshow(image, interpolation="bicubic", extent=(0, width, height, 0))
    for label, mask, caption in instances:
        color = plt.get_cmap("Set1")(label % 9)
        overlay = np.zeros((height, width, 4))
        overlay[mask] = (*color[:3], 0.35)
        axes.imshow(overlay, extent=(0, width, height, 0))
        padded = np.pad(mask, 1).astype(float)  # closes the outlines of objects at the border
        axes.contour(
            np.arange(-0.5, width + 1), np.arange(-0.5, height + 1), padded, [0.5], colors=[color], linewidths=1.5
        )
        ys, xs = np.nonzero(mask)
        style = dict(facecolor=color, edgecolor="none", alpha=0.8, boxstyle="round,pad=0.15")
        axes.text(xs.min(), max(ys.min(), 6), caption, fontsize=6, color="white", va="bottom", bbox=style, clip_on=True)
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    axes.set_title(title, fontsize=8)
    axes.axis("off")


def draw_detections(
    images: Sequence[np.ndarray],
    truths: Sequence[List[Instance]],
    predictions: Sequence[List[Instance]],
    path: Path,
    columns: int = 3,
) -> None:
    """Write a sheet of pairs, truth on the left and prediction on the right, to ``path``.

    Args:
        images: RGB pictures, (H, W, 3) uint8 each.
        truths, predictions: for every picture a list of (class index, (H, W) bool mask, caption).
        path: the PNG file to write.
        columns: pairs per row.
    """
    rows = -(-len(images) // columns)
    figure, grid = plt.subplots(rows, 2 * columns, figsize=(4.2 * columns, 2.3 * rows), squeeze=False, dpi=130)
    for axes in grid.flat:
        axes.axis("off")
    for i, (image, truth, prediction) in enumerate(zip(images, truths, predictions, strict=True)):
        row, column = divmod(i, columns)
        _draw(grid[row, 2 * column], image, truth, "truth")
        _draw(grid[row, 2 * column + 1], image, prediction, "prediction")
    figure.tight_layout(pad=0.6)
    figure.savefig(path)
    plt.close(figure)


def read_scalars(work_dir: Path) -> List[dict]:
    """What mmengine's LocalVisBackend logged in ``work_dir``, in order; of a step that ran twice the later values."""
    lines = {}
    for file in sorted(work_dir.glob("*/vis_data/scalars.json")):
        for line in map(json.loads, file.read_text().splitlines()):
            lines["loss" in line, line["step"]] = line
    return [lines[key] for key in sorted(lines)]


def draw_curves(scalars: Sequence[dict], path: Path) -> None:
    """Write the loss over the iterations and the box and mask AP over the epochs to the PNG file ``path``."""
    train = [line for line in scalars if "loss" in line]
    validation = [line for line in scalars if "coco/bbox_mAP" in line]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), dpi=130)
    steps = [line["step"] for line in train]
    left.plot(steps, [line["loss"] for line in train], color="black", label="sum")
    for key in sorted(key for key in train[0] if key.startswith("loss_")):
        left.plot(steps, [line[key] for line in train], linewidth=1, label=key[len("loss_") :])
    left.set(xlabel="iteration", ylabel="training loss", yscale="log")
    epochs = [line["step"] for line in validation]
    for name, key in (("box", "coco/bbox_mAP"), ("mask", "coco/segm_mAP")):
        right.plot(epochs, [line[key] for line in validation], marker="o", label=f"{name} AP")
    right.set(xlabel="epoch", ylabel="AP on the validation set", ylim=(0, 1))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
