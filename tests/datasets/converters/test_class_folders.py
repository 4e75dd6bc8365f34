"""tools/dataset_converters/cifar10.py and rsscn7.py on small folders."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from mmsema.datasets.converters import class_folders
from mmsema.datasets.converters.class_folders import CIFAR10, RSSCN7, convert_cifar10, convert_rsscn7
from mmsema.datasets.converters.coco import ConversionError, is_held_out


@pytest.fixture
def source(tmp_path, monkeypatch) -> Path:
    """Two pictures of every class to train on and one to test."""
    monkeypatch.setattr(class_folders, "CIFAR10_PER_CLASS", dict(train=2, test=1))
    rng = np.random.default_rng(0)
    for split, count in class_folders.CIFAR10_PER_CLASS.items():
        for label in CIFAR10:
            folder = tmp_path / "source" / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                cv2.imwrite(str(folder / f"{i:04d}.jpg"), rng.integers(0, 255, (32, 32, 3), np.uint8))
    return tmp_path / "source"


def test_a_copy_that_mmpretrain_reads(source, tmp_path):
    from mmpretrain.datasets import CustomDataset

    lines, problems = convert_cifar10(source, tmp_path / "out")
    assert not problems
    assert lines == [
        f"{tmp_path / 'out' / name}: {n} pictures of 10 classes" for name, n in (("train", 20), ("test", 10))
    ]
    data = CustomDataset(data_root=str(tmp_path / "out"), data_prefix=dict(img_path="train"), with_label=True)
    assert tuple(data.CLASSES) == CIFAR10 and len(data) == 20
    for item in data:
        path = Path(item["img_path"])
        assert path.parent.name == CIFAR10[item["gt_label"]]
        assert path.read_bytes() == (source / path.relative_to(tmp_path / "out")).read_bytes()


def test_what_is_no_picture_of_32_pixels_is_left_out(source, tmp_path):
    (source / "train/cat/0000.jpg").write_bytes(b"")
    cv2.imwrite(str(source / "test/dog/0000.jpg"), np.zeros((64, 64, 3), np.uint8))
    problems = convert_cifar10(source, tmp_path / "out")[1]
    assert "0000.jpg is not a picture" in problems[0] and "has the shape (64, 64, 3)" in problems[2]
    assert "train/cat has 1 pictures, CIFAR-10 has 2 there" in problems[1] and "test/dog has 0" in problems[3]
    assert not list((tmp_path / "out/test/dog").iterdir())


@pytest.mark.parametrize("case", ["missing", "fewer", "same"])
def test_another_layout_is_one_line(case, source, tmp_path):
    target = source if case == "same" else tmp_path / "out"
    if case == "fewer":
        (source / "test/cat").rename(source / "test/kitten")
    with pytest.raises(ConversionError) as error:
        convert_cifar10(tmp_path / "nowhere" if case == "missing" else source, target)
    words = dict(missing="has none", fewer="frog, horse, kitten, ship", same="must be another folder than source")
    assert words[case] in str(error.value) and not (tmp_path / "out").exists()


def test_rsscn7_is_split_by_names(tmp_path, monkeypatch):
    monkeypatch.setattr(class_folders, "RSSCN7_PER_CLASS", 10)
    source, target = tmp_path / "RSSCN7", tmp_path / "out"
    (source / ".git").mkdir(parents=True)
    (source / "README.md").touch()
    for label in RSSCN7:
        (source / label).mkdir()
        for i in range(10):
            cv2.imwrite(str(source / label / f"{label[0]}{i:03d}.jpg"), np.full((400, 400, 3), i, np.uint8))
    lines, problems = convert_rsscn7(source, target)
    held = {
        f"{label}/{label[0]}{i:03d}.jpg" for label in RSSCN7 for i in range(10) if is_held_out(f"{label[0]}{i:03d}")
    }
    assert not problems and 0 < len(held) < 35
    assert lines == [
        f"{target}/train: {70 - len(held)} pictures of 7 classes",
        f"{target}/test: {len(held)} pictures of 7 classes",
    ]
    assert {str(path.relative_to(target / "test")) for path in target.glob("test/*/*")} == held
    assert len(list(target.glob("train/*/*"))) == 70 - len(held)
    cv2.imwrite(str(source / "eForest/e000.jpg"), np.zeros((400, 300, 3), np.uint8))
    shown, counted = convert_rsscn7(source, tmp_path / "again")[1]
    assert "e000.jpg has the shape (400, 300, 3), (400, 400, 3) is needed" in shown
    assert "eForest has 9 pictures, RSSCN7 has 10 there" in counted
    (source / "hSea").mkdir()
    with pytest.raises(ConversionError, match="must hold the folders aGrass, .*, has aGrass, .*, hSea"):
        convert_rsscn7(source, tmp_path / "third")
