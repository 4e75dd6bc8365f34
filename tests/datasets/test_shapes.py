"""The generated data set: reproducible, and true COCO."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from mmsema.datasets.shapes import CLASSES, _segmentation, draw_picture, make_shapes


def digest(root: Path) -> str:
    content = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_file()):
        content.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return content.hexdigest()


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("shapes")
    make_shapes(root, dict(train=60, val=3))
    return root


def test_same_seed_same_bytes(tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        make_shapes(tmp_path / name, dict(train=3, val=2), seed)
    assert digest(tmp_path / "a") == digest(tmp_path / "b") != digest(tmp_path / "c")


def test_splits_share_no_picture(shapes):
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in shapes.glob("*/*.jpg")]
    assert len(hashes) == len(set(hashes)) == 63


def test_coco_reads_it(shapes):
    import cv2

    coco = COCO(shapes / "annotations/instances_train.json")
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(CLASSES)
    sizes, kinds = set(), Counter()
    for info in coco.loadImgs(coco.getImgIds()):
        picture = cv2.imread(str(shapes / "train" / info["file_name"]))
        assert picture.shape == (info["height"], info["width"], 3)
        sizes.add(picture.shape)
        for annotation in coco.loadAnns(coco.getAnnIds(info["id"])):
            mask = coco.annToMask(annotation)
            assert mask.sum() == pytest.approx(annotation["area"], rel=0.1)
            x, y, w, h = annotation["bbox"]
            assert 0 <= x < x + w <= info["width"] and 0 <= y < y + h <= info["height"]
            rle = coco.annToRLE(annotation)
            assert np.abs(coco_mask.toBbox(rle) - [x, y, w, h]).max() <= 1.5
            segmentation = annotation["segmentation"]
            form = "polygon" if isinstance(segmentation, list) else type(segmentation["counts"]).__name__
            kinds[form, annotation["iscrowd"]] += 1
    assert len(sizes) > 30
    assert kinds["polygon", 0] > 100 and kinds["str", 0] > 10 and kinds["list", 1] >= 3
    assert set(kinds) == {("polygon", 0), ("str", 0), ("list", 1)}


def test_shapes_overlap_but_no_pixel_belongs_to_two(shapes):
    coco = COCO(shapes / "annotations/instances_train.json")
    occluded = 0
    for image in coco.getImgIds():
        anns = coco.loadAnns(coco.getAnnIds(image, iscrowd=False))
        total = np.sum([coco.annToMask(a) for a in anns], axis=0)
        assert (total > 1).mean() < 0.01  # polygon corners are rounded to a pixel
        boxes = [a["bbox"] for a in anns]
        ious = coco_mask.iou(np.array(boxes, float), np.array(boxes, float), [0] * len(boxes))
        occluded += (ious > 0.05).sum() > len(boxes)
    assert occluded > 10


@pytest.mark.parametrize("seed", range(5))
def test_polygons_and_rle_say_the_mask(seed):
    generator = np.random.default_rng(seed)
    yy, xx = np.mgrid[:70, :60]
    center, radius = generator.uniform(15, 45, 2), generator.uniform(8, 25)
    distance = np.hypot(yy - center[0], xx - center[1])
    ring = (distance < radius) & (distance > radius / 2)
    assert isinstance(_segmentation(distance < radius, as_rle=True), dict)
    for mask, form in ((distance < radius, list), (ring, dict)):
        found = _segmentation(mask, as_rle=False)
        assert isinstance(found, form)
        rle = coco_mask.merge(coco_mask.frPyObjects(found, 70, 60)) if form is list else found
        truth = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert coco_mask.iou([rle], [truth], [0])[0, 0] > 0.93


def test_an_interrupted_run_leaves_no_annotation_file(tmp_path, monkeypatch):
    calls = []

    def fail_at_the_third(rng):
        calls.append(rng)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return draw_picture(rng)

    monkeypatch.setattr("mmsema.datasets.shapes.draw_picture", fail_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        make_shapes(tmp_path, dict(train=4))
    assert not (tmp_path / "annotations/instances_train.json").exists()


def test_unknown_split_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"counts must name splits from \('train', 'val'\), got \['tset'\]"):
        make_shapes(tmp_path, dict(tset=1))


def test_mmdet_reads_every_annotation(shapes):
    from mmdet.datasets import CocoDataset
    from mmdet.utils import register_all_modules

    register_all_modules()
    dataset = CocoDataset(
        data_root=str(shapes),
        ann_file="annotations/instances_train.json",
        data_prefix=dict(img="train/"),
        metainfo=dict(classes=CLASSES),
        pipeline=[dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_bbox=True, with_mask=True)],
    )
    content = json.loads((shapes / "annotations/instances_train.json").read_text())
    assert len(dataset) == 60
    loaded = [dataset[i] for i in range(60)]
    assert sum(len(item["gt_masks"]) for item in loaded) == len(content["annotations"])
    assert sum(item["gt_ignore_flags"].sum() for item in loaded) == sum(a["iscrowd"] for a in content["annotations"])
