"""What is said to be dropped is left out by mmdet itself, and pycocotools reads masks as the audit does."""

import json

import numpy as np
import pytest
from faults import FAULTS
from planting import CLASSES, make_coco
from pycocotools import mask as coco_mask

from mmsema.audit.masks import decode_counts

# annotation ids that remain for training, out of 11, 12, (13: a crowd), 14, 15, 16
LEFT = dict(
    boxes_negative_and_zero={15, 16},
    box_outside={11, 14, 15, 16},
    area_zero={11, 14, 15, 16},
    category_not_wanted={11, 12, 14, 16},
    annotation_of_no_image={11, 12, 14, 16},
    polygon_of_two_points={12, 14, 15, 16},
    polygon_of_odd_length={12, 14, 15, 16},
    polygon_part_of_one_point={11, 12, 14, 15, 16},
    polygon_part_of_odd_length_without_numbers={11, 12, 14, 15, 16},
    rle_without_counts={11, 12, 14, 15, 16},
    rle_where_polygons_are_kept={11, 14, 15, 16},
)


def boxes_left(root, classes, poly2mask) -> set:
    """(image, x, y) of every box that mmdet's own data set and loading give for training."""
    from mmdet.datasets import CocoDataset

    pipeline = [
        dict(type="LoadImageFromFile"),
        dict(type="mmdet.LoadAnnotations", with_bbox=True, with_mask=True, poly2mask=poly2mask),
        dict(type="mmdet.PackDetInputs", meta_keys=("img_id",)),
    ]
    prefix, metainfo = dict(img=f"{root}/images/"), dict(classes=classes)
    dataset = CocoDataset(ann_file=f"{root}/train.json", data_prefix=prefix, metainfo=metainfo, pipeline=pipeline)
    samples = [dataset[i]["data_samples"] for i in range(len(dataset))]
    return {
        (sample.img_id, *box[:2].round(2).tolist())
        for sample in samples
        for box in sample.gt_instances.bboxes.tensor.numpy().astype(float)
    }


def test_every_dropped_annotation_is_listed_here():
    coco = {name: fault for name, fault in FAULTS.items() if fault.kind == "coco" and fault.rule == "drop"}
    drops = {name for name, fault in coco.items() if fault.settings.get("use") != "evaluate"}
    assert drops == set(LEFT)


@pytest.mark.parametrize("name", LEFT)
def test_mmdet_leaves_out_what_is_dropped(name, tmp_path):
    fault = FAULTS[name]
    make_coco(tmp_path)
    where = {
        entry["id"]: (entry["image_id"], *np.float32(entry["bbox"][:2]).round(2).astype(float).tolist())
        for entry in json.loads((tmp_path / "train.json").read_text())["annotations"]
    }
    fault.spoil(tmp_path)
    left = boxes_left(tmp_path, fault.settings.get("classes", CLASSES), fault.settings.get("poly2mask", True))
    assert left == {where[number] for number in LEFT[name]}


def precision(content: dict) -> float:
    """Mask AP of detections that are the objects themselves."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth = COCO()
    truth.dataset = content
    truth.createIndex()
    found = [dict(one, score=1.0) for one in content["annotations"] if not one["iscrowd"]]
    evaluation = COCOeval(truth, truth.loadRes([{**one} for one in found]), "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return evaluation.stats[0]


def test_pycocotools_finds_no_object_of_number_0(tmp_path):
    make_coco(tmp_path)
    content = json.loads((tmp_path / "train.json").read_text())
    assert precision(content) == pytest.approx(1)
    FAULTS["annotation_numbers_from_zero"].spoil(tmp_path)
    assert precision(json.loads((tmp_path / "train.json").read_text())) < 0.9


def test_runs_are_what_pycocotools_encodes():
    rng = np.random.default_rng(0)
    for _ in range(300):
        height, width = rng.integers(1, 60, 2)
        shape = np.asfortranarray((rng.random((height, width)) < rng.choice([0, 0.02, 0.5, 1])).astype(np.uint8))
        flat = shape.flatten(order="F")
        bounds = np.concatenate([[0], np.flatnonzero(np.diff(flat)) + 1, [flat.size]])
        runs = np.diff(bounds).tolist()
        runs = [0, *runs] if flat[0] else runs
        assert decode_counts(coco_mask.encode(shape)["counts"].decode()).tolist() == runs
    big = np.zeros((5000, 5000), np.uint8, order="F")
    big[2500:, 2500:] = 1
    assert decode_counts(coco_mask.encode(big)["counts"].decode()).sum() == big.size


@pytest.mark.parametrize("text", ["", "0", "§", "z", "P", "00000000000PPPPPPPPP"])
def test_texts_that_are_no_runs(text):
    runs = decode_counts(text)
    assert runs is None or runs.sum() != 48 * 64


def test_pycocotools_fails_where_evaluation_must_stop():
    parts = [[4, 4, 24, 20], [30, 20, 50, 20, 30, 36]]
    with pytest.raises(TypeError):
        coco_mask.frPyObjects(parts, 48, 64)
