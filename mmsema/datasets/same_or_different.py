"""Pictures whose class no part of them shows: two markers far apart, alike or not."""

from typing import List

import numpy as np
from mmengine.dataset import BaseDataset

from ..registry import DATASETS

SPLITS = ("train", "test")
HEIGHT, WIDTH, MARKER = 14, 140, 12
EDGE = 13  # a marker lies within so many columns of the left or the right edge
KINDS = (28, 228)  # grey levels of a dark and a light marker
PAIRS = ((0, 0), (0, 1), (1, 0), (1, 1))  # kinds on the left and on the right


@DATASETS.register_module()
class SameOrDifferent(BaseDataset):
    """A marker at the left edge, one at the right, each dark or light, on noise: are they alike?

    Pictures come in groups of four that have noise and places in common, one for every pair of kinds. So any part of a
    picture with one marker in it, or none, is found in both classes equally often, to the bit: only who sees both
    markers can do better than guess. The same seed and index give the same picture.

    Args:
        split: "train" or "test", which have no group in common.
        groups: how many groups of four pictures.
        pipeline: transforms applied to ``dict(img=(14, 140, 3) uint8 array, gt_label=0 (different) or 1 (same), ...)``.
        seed: of noise and places.
        test_mode: as in mmengine's BaseDataset.
    """

    METAINFO = dict(classes=("different", "same"))

    def __init__(self, split: str, groups: int, pipeline: List[dict], seed: int = 0, test_mode: bool = False) -> None:
        if split not in SPLITS:
            raise ValueError(f"split must be one of {SPLITS}, got {split!r}")
        if not isinstance(groups, int) or groups < 1:
            raise ValueError(f"groups must be an int >= 1, got {groups!r}")
        self.split, self.groups, self.seed = split, groups, seed
        super().__init__(pipeline=pipeline, test_mode=test_mode)

    def load_data_list(self) -> List[dict]:
        return [
            dict(kinds=pair, gt_label=int(pair[0] == pair[1]), group=group)
            for group in range(self.groups)
            for pair in PAIRS
        ]

    def get_data_info(self, idx: int) -> dict:
        """One picture, drawn when it is asked for."""
        info = super().get_data_info(idx)
        rng = np.random.default_rng([self.seed, SPLITS.index(self.split), info["group"]])
        picture = rng.normal(0, 20, (HEIGHT, WIDTH))
        level = np.full((HEIGHT, WIDTH), 128)
        for kind, start in zip(info["kinds"], (0, WIDTH - EDGE), strict=True):
            x, y = start + rng.integers(EDGE - MARKER + 1), rng.integers(HEIGHT - MARKER + 1)
            level[y : y + MARKER, x : x + MARKER] = KINDS[kind]
        pixels = (picture + level).round().clip(0, 255).astype(np.uint8)
        img = np.repeat(pixels[..., None], 3, axis=-1)
        return dict(info, img=img, img_shape=img.shape[:2], ori_shape=img.shape[:2])
