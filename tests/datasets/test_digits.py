import numpy as np
import pytest
from mmengine.registry import DATASETS

from mmsema.datasets import Digits


def test_splits_are_disjoint_stratified_and_complete():
    train, test = Digits("train", []), Digits("test", [])
    assert (len(train), len(test)) == (1437, 360)
    assert {d["digit"] for d in train}.isdisjoint(d["digit"] for d in test)
    assert np.bincount([d["gt_label"] for d in test]).min() >= 34
    assert train[0]["img"].shape == (8, 8, 3) and train[0]["img"].dtype == np.uint8
    assert max(d["img"].max() for d in train) == 255


def test_registered_without_import():
    assert isinstance(DATASETS.build(dict(type="mmsema.Digits", split="test", pipeline=[])), Digits)


def test_unknown_split_is_named():
    with pytest.raises(ValueError, match="split must be 'train' or 'test', got 'val'"):
        Digits("val", [])
