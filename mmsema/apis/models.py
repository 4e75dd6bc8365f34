"""A trained detector or classifier on its host's inferencer; weights are read safely and must fit."""

import json
import logging
import warnings
from pathlib import Path
from typing import Dict, List, Optional, Tuple, Type, Union

import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.registry import init_default_scope
from torch import Tensor

from ..checkpoint import load_weights, read_checkpoint
from ..engine.config import PathLike, read_config
from ..engine.errors import UsageError

COCO_GAPS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)  # the numbers from 1 to 90 that none of COCO's 80 categories has


def _dataset_meta(checkpoint: Optional[PathLike]) -> dict:
    """What a checkpoint says of the data that it was trained on: its classes, above all."""
    return {} if checkpoint is None else (read_checkpoint(checkpoint).get("meta") or {}).get("dataset_meta") or {}


class Detector:
    """mmdet's DetInferencer for a config and, unless the weights shall be random, a checkpoint that fits it."""

    def __init__(self, cfg: Config, checkpoint: Optional[PathLike] = None, device: Optional[str] = None) -> None:
        from mmdet.apis import DetInferencer
        from mmdet.registry import DATASETS

        from ..visualization import readable

        saved = _dataset_meta(checkpoint)
        cfg.visualizer = readable(cfg)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there are no weights and no class names: they come now
            self.inferencer = DetInferencer(cfg, device=device)
        self.cfg, self.model = cfg, self.inferencer.model
        # only where its annotations would be and what its classes are: nothing is read from disk
        self.dataset = DATASETS.build(dict(cfg.test_dataloader.dataset, lazy_init=True))
        if checkpoint is not None:
            load_weights(self.model, checkpoint, min_matched=1.0)
        meta = {**self.dataset.metainfo, **saved}
        self.classes: Tuple[str, ...] = tuple(meta["classes"])
        self.model.dataset_meta.update(meta)
        self.inferencer.visualizer.dataset_meta = self.model.dataset_meta

    def prepare(self, image: np.ndarray) -> Tensor:
        """A picture, (H, W, 3) uint8 BGR, as the model sees it: (1, 3, H', W')."""
        _, data = next(self.inferencer.preprocess([image]))
        return self.model.data_preprocessor(data, False)["inputs"]

    def annotations(self) -> dict:
        """The content of the test set's annotation file, or an empty dict if there is none that can be read."""
        path = Path(self.dataset.ann_file)
        if not path.is_file():
            return {}
        try:
            content = json.loads(path.read_bytes())
        except ValueError:
            content = None
        if not isinstance(content, dict):
            print_log(
                f"{path} is not COCO's JSON; numbers of pictures and classes do not come from it",
                "current",
                logging.WARNING,
            )
            return {}
        return content

    def category_ids(self, annotations: dict) -> List[int]:
        """The data set's category number of every class: of its annotation file, of COCO's classes, else 1, 2, 3..."""
        from mmdet.datasets import CocoDataset

        by_name = {one.get("name"): one.get("id") for one in annotations.get("categories", [])}
        if set(self.classes) <= set(by_name):
            return [by_name[name] for name in self.classes]
        if self.classes == CocoDataset.METAINFO["classes"]:
            return [i for i in range(1, 91) if i not in COCO_GAPS]
        return list(range(1, len(self.classes) + 1))

    def predict(self, image: np.ndarray, score_thr: float, labels: str = "auto") -> Tuple[List[dict], np.ndarray]:
        """What is found in a picture, (H, W, 3) uint8 BGR.

        Args:
            image: the picture.
            score_thr: objects are drawn from this score on.
            labels: which of them are named: those that have room ("auto"), "all" or "none".

        Returns:
            One dict per object, with ``label``, ``score``, ``bbox`` (left, top, width, height in pixels) and, from a
            model with masks, ``segmentation`` (COCO's RLE); and the picture with the objects drawn on it, BGR, enlarged
            by a whole number if it is small.
        """
        _, data = next(self.inferencer.preprocess([image]))
        (sample,) = self.inferencer.forward(data)
        visualizer = self.inferencer.visualizer
        visualizer.labels = labels
        visualizer.add_datasample("", image[..., ::-1], sample.cpu(), draw_gt=False, pred_score_thr=score_thr)
        found = self.inferencer.pred2dict(sample)
        objects = []
        for i, (label, score, (x1, y1, x2, y2)) in enumerate(
            zip(found["labels"], found["scores"], found["bboxes"], strict=True)
        ):
            one = dict(label=label, score=score, bbox=[x1, y1, x2 - x1, y2 - y1])
            if "masks" in found:
                one["segmentation"] = found["masks"][i]
            objects.append(one)
        return objects, visualizer.get_image()[..., ::-1]


class Classifier:
    """mmpretrain's ImageClassificationInferencer for a config and, unless the weights shall be random, a checkpoint."""

    def __init__(self, cfg: Config, checkpoint: Optional[PathLike] = None, device: Optional[str] = None) -> None:
        from mmpretrain import ImageClassificationInferencer, get_model

        saved = _dataset_meta(checkpoint)
        init_default_scope("mmpretrain")
        self.cfg, self.model = cfg, get_model(cfg, device=device or get_device())
        if checkpoint is not None:
            load_weights(self.model, checkpoint, min_matched=1.0)
        self.inferencer = ImageClassificationInferencer(self.model, classes=saved.get("classes"))

    def prepare(self, image: np.ndarray) -> Tensor:
        """A picture, (H, W, 3) uint8 BGR, as the model sees it: (1, 3, H', W')."""
        return self.model.data_preprocessor(next(self.inferencer.preprocess([image])), False)["inputs"]

    def predict(self, image: np.ndarray, top_k: int) -> List[dict]:
        """The ``top_k`` best classes of a picture, best first: ``label``, ``category`` (its name), ``score``."""
        (sample,) = self.inferencer.forward(next(self.inferencer.preprocess([image])))
        scores, labels = sample.pred_score.topk(min(top_k, len(sample.pred_score)))
        names = self.inferencer.classes or [str(i) for i in range(len(sample.pred_score))]
        return [
            dict(label=label, category=names[label], score=score)
            for label, score in zip(labels.tolist(), scores.tolist(), strict=True)
        ]


def require_device(device: str) -> None:
    """Raise :class:`UsageError` if ``device`` is none that torch has here."""
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise UsageError(f"device must be cpu, cuda or cuda:<number>, got {device!r}") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"device {device}: torch finds no CUDA device here; leave it away or name cpu")
    if kind == "meta":
        raise UsageError(f"device must be cpu, cuda or cuda:<number>, got {device!r}, which holds no numbers")


def load_model(
    config: Union[PathLike, Config], checkpoint: Optional[PathLike] = None, device: Optional[str] = None
) -> Union[Detector, Classifier]:
    """The detector or classifier of a config, or of its path or name; without a checkpoint its weights are random.

    Raises:
        UsageError: the config or the device cannot be used.
        CheckpointError: the checkpoint cannot be read or does not fit.
    """
    if device is not None:
        require_device(device)
    cfg = config if isinstance(config, Config) else read_config(config)
    kinds: Dict[str, Type[Union[Detector, Classifier]]] = dict(mmdet=Detector, mmpretrain=Classifier)
    if cfg.get("default_scope") not in kinds:
        name = config.filename if isinstance(config, Config) else config
        raise UsageError(f"default_scope of {name} must be one of {', '.join(kinds)}, got {cfg.get('default_scope')}")
    return kinds[cfg.default_scope](cfg, checkpoint, device)
