"""Handwritten digits that scikit-learn carries: real data, no download."""

from typing import List

import numpy as np
from mmengine.dataset import BaseDataset

from ..registry import DATASETS

TEST_SHARE = 0.2


@DATASETS.register_module()
class Digits(BaseDataset):
    """The 1,797 handwritten digits of ``sklearn.datasets.load_digits`` (8 x 8 pixels) as grey three-channel images.

    A fifth of every class, drawn once with a fixed seed, is the test split; the rest is the train split.

    Args:
        split: "train" or "test".
        pipeline: transforms applied to ``dict(img=(8, 8, 3) uint8 array, gt_label=int, ...)``.
        test_mode: as in mmengine's BaseDataset.
    """

    METAINFO = dict(classes=tuple("0123456789"))

    def __init__(self, split: str, pipeline: List[dict], test_mode: bool = False) -> None:
        if split not in ("train", "test"):
            raise ValueError(f"split must be 'train' or 'test', got {split!r}")
        self.split = split
        super().__init__(pipeline=pipeline, test_mode=test_mode)

    def load_data_list(self) -> List[dict]:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split

        digits = load_digits()
        pixels = np.round(digits.images * (255 / 16)).astype(np.uint8)  # grey levels 0..16
        pixels = np.repeat(pixels[..., None], 3, axis=-1)
        parts = train_test_split(np.arange(len(pixels)), test_size=TEST_SHARE, stratify=digits.target, random_state=0)
        return [
            dict(
                img=pixels[i],
                img_shape=pixels[i].shape[:2],
                ori_shape=pixels[i].shape[:2],
                gt_label=int(digits.target[i]),
                digit=int(i),  # its number in load_digits
            )
            for i in sorted(parts[self.split == "test"])
        ]
