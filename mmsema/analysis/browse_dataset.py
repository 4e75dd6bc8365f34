"""Draw what training sees: the pictures of a config's training set after augmentation, with their annotations."""

from pathlib import Path
from typing import List

import numpy as np
from mmengine.config import Config
from mmengine.registry import DATASETS, VISUALIZERS, init_default_scope
from rich.progress import track

from ..apis import PathLike, read_config
from ..audit import audit_config
from ..engine.config import check_data
from ..engine.errors import UsageError, require_folder

SMALLEST = 224  # smaller pictures of classes are enlarged, so that the text on them can be read


def _draw_detection(visualizer, image: np.ndarray, sample, path: Path) -> None:
    from mmdet.structures.bbox import get_box_tensor

    sample.gt_instances.bboxes = get_box_tensor(sample.gt_instances.bboxes)
    visualizer.add_datasample("", image, sample, draw_pred=False, out_file=str(path))


def _draw_classes(visualizer, image: np.ndarray, sample, path: Path) -> None:
    resize = SMALLEST if min(image.shape[:2]) < SMALLEST else None
    classes = visualizer.dataset_meta.get("classes")
    visualizer.visualize_cls(image, sample, classes=classes, draw_pred=False, resize=resize, out_file=str(path))


DRAW = dict(mmdet=_draw_detection, mmpretrain=_draw_classes)


def browse(config: PathLike, out_dir: PathLike = "outputs", number: int = 20) -> List[Path]:
    """Write the first ``number`` pictures of a config's training set, augmented and annotated, to ``out_dir``.

    Args:
        config: path of a config, or name of one that mmsema ships.
        out_dir: made if it does not exist.
        number: of pictures, at least 1; fewer are written when the data set has fewer.

    Returns:
        The paths, ``<number in the data set>.png``.

    Raises:
        UsageError: the config or its data is not there, or cannot be used.
    """
    cfg = read_config(config)
    if cfg.get("default_scope") not in DRAW:
        raise UsageError(f"default_scope of {config} must be one of {', '.join(DRAW)}, got {cfg.get('default_scope')}")
    check_data(cfg, ["train_dataloader"])
    require_folder("out_dir", Path(out_dir))
    try:
        return _browse(cfg, Path(out_dir), number)
    except Exception:  # what can be drawn is drawn, as this is where one looks at faults
        stops = [line for report in audit_config(cfg, ["train_dataloader"], pictures="quick") for line in report.stops]
        if not stops:
            raise
    raise UsageError("\nerror: ".join(stops))


def _browse(cfg: Config, out_dir: Path, number: int) -> List[Path]:
    init_default_scope(cfg.default_scope)
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    if cfg.default_scope == "mmdet":
        from ..visualization import readable

        cfg.visualizer = readable(cfg)
    visualizer = VISUALIZERS.build(dict(cfg.visualizer, name="browse"))
    visualizer.dataset_meta = dataset.metainfo
    out_dir.mkdir(parents=True, exist_ok=True)
    paths = []
    for index in track(range(min(number, len(dataset))), "pictures"):
        item = dataset[index]
        image = np.ascontiguousarray(item["inputs"].permute(1, 2, 0).numpy()[..., ::-1])  # BGR to RGB
        paths.append(out_dir / f"{index:06d}.png")
        DRAW[cfg.default_scope](visualizer, image, item["data_samples"], paths[-1])
    return paths
