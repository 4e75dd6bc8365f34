"""Pictures of results: predictions beside the truth, and the curves of a training run."""

import json
from pathlib import Path
from typing import List, Sequence

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from mmengine.structures import InstanceData


def draw_detections(
    images: Sequence[np.ndarray],
    truths: Sequence[InstanceData],
    predictions: Sequence[InstanceData],
    classes: Sequence[str],
    path: Path,
    columns: int = 3,
) -> None:
    """Write a sheet of pairs, truth on the left and prediction on the right, to ``path``.

    Args:
        images: RGB pictures, (H, W, 3) uint8 each.
        truths, predictions: what :class:`mmsema.visualization.DetVisualizer` draws, for every picture.
        classes: names of the labels.
        path: the PNG file to write.
        columns: pairs per row.
    """
    from ..visualization import DetVisualizer

    visualizer = DetVisualizer("sheet")
    visualizer.dataset_meta = dict(classes=classes)
    rows = -(-len(images) // columns)
    figure, grid = plt.subplots(rows, 2 * columns, figsize=(4.2 * columns, 2.3 * rows), squeeze=False, dpi=200)
    for axes in grid.flat:
        axes.axis("off")
    for i, (image, *pair) in enumerate(zip(images, truths, predictions, strict=True)):
        row, column = divmod(i, columns)
        for axes, title, instances in zip(grid[row, 2 * column :][:2], ("truth", "prediction"), pair, strict=True):
            axes.imshow(visualizer.draw(image, instances))
            axes.set_title(title, fontsize=8)
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
