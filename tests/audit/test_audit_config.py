"""The sets of a config, in wrappers and beside one another, and its evaluators."""

import os
from pathlib import Path

import numpy as np
import pytest
from faults import FAULTS
from mmengine.config import Config
from mmengine.registry import DATASETS
from old_torch import needs_mmseg
from PIL import Image
from planting import (
    NAMES,
    SIZE,
    config,
    dataset,
    edit,
    find,
    make_coco,
    make_folders,
    make_pairs,
    picture,
)

from mmsema.audit import audit_config
from mmsema.datasets import Digits

ROOT = Path(__file__).resolve().parents[2]


def test_a_configs_sets_inside_wrappers(tmp_path):
    make_coco(tmp_path)
    inner = dataset(tmp_path, "coco", metainfo=dict(classes=("circle", "sqare", "star")))
    wrapped = dict(type="RepeatDataset", times=3, dataset=dict(type="ConcatDataset", datasets=[inner, inner]))
    (report,) = audit_config(config("mmdet", train=dict(type="MultiImageMixDataset", dataset=wrapped, pipeline=[])))
    assert report.counts["class-unknown"] == 1


def make_bare(root: Path) -> None:
    """A set whose pictures show nothing that is annotated."""
    make_coco(root)
    edit(root, lambda content: content.update(annotations=[]))


def test_a_set_without_annotations_may_stand_beside_one_with_some(tmp_path):
    make_coco(tmp_path)
    make_bare(tmp_path / "bare")
    labelled, bare = dataset(tmp_path, "coco"), dataset(tmp_path / "bare", "coco")
    for other in (labelled, dict(type="mmdet.VOCDataset"), dict(type=Digits), labelled):  # the last one from memory
        sets = dict(type="ConcatDataset", datasets=[bare, other])
        reports = audit_config(config("mmdet", train=sets))
        assert not any(report.stops for report in reports)
        line = "set without annotations, beside another: 4 of 4 images, 0 of 0 annotations"
        assert f"{tmp_path}/bare/train.json: {line}" in reports[0].notes


@pytest.mark.parametrize("sets", [1, 2])
def test_sets_without_any_annotation_stop(sets, tmp_path):
    names = [tmp_path / str(number) for number in range(sets)]
    for name in names:
        make_bare(name)
    cfg = config("mmdet", train=dict(type="ConcatDataset", datasets=[dataset(name, "coco") for name in names]))
    for _ in range(2):
        stops = [line for report in audit_config(cfg) for line in report.stops]
        sources = [f"{name}/train.json" for name in names]
        numbers = "4 of 4 images, 0 of 0 annotations (image without annotations: 4)"
        alone = f"{sources[0]}: nothing is left to use: {numbers}"
        together = f"train_dataloader: nothing is left to use: 0 annotations in 2 sets ({', '.join(sources)})"
        assert stops == [alone if sets == 1 else together]


@pytest.mark.parametrize("change", ["filter", "spoil", "ids"])
def test_a_set_of_which_nothing_is_left_stops_beside_another(change, tmp_path):
    make_coco(tmp_path)
    make_bare(tmp_path / "bare")
    settings = {}
    if change == "filter":
        settings = dict(filter_cfg=dict(filter_empty_gt=True))
    elif change == "ids":
        make_coco(tmp_path / "bare")
        edit(tmp_path / "bare", lambda content: [one.update(image_id=999) for one in content["annotations"]])
    else:
        FAULTS["boxes_in_shares_of_the_picture"].plant(tmp_path / "bare")
    sets = [dataset(tmp_path, "coco"), dataset(tmp_path / "bare", "coco", **settings)]
    reports = audit_config(config("mmdet", train=dict(type="ConcatDataset", datasets=sets)))
    assert [report.stops != [] for report in reports] == [False, True]


def test_masks_count_where_the_config_uses_them(tmp_path):
    make_coco(tmp_path)
    edit(tmp_path, lambda content: find(content, 12).pop("segmentation"))
    boxes = dict(type="LoadAnnotations", with_bbox=True)
    masks = dict(type="RandomChoice", transforms=[[dict(type="mmdet.LoadAnnotations", with_mask=True)]])
    for steps, wanted in ([boxes], 0), ([boxes, masks], 1):
        (report,) = audit_config(config("mmdet", train=dataset(tmp_path, "coco", pipeline=steps)))
        assert len(report.stops) == wanted
    cfg = config("mmdet", val=dataset(tmp_path, "coco", test_mode=True))
    for metric, wanted in ("bbox", 0), (["bbox", "segm"], 1):
        cfg.val_evaluator = dict(type="CocoMetric", metric=metric)
        (report,) = audit_config(cfg)
        assert report.use == "evaluate" and len(report.stops) == wanted


@pytest.mark.scorecard("data")
def test_class_folders_of_validation_that_are_called_otherwise(tmp_path):
    make_folders(tmp_path)
    make_folders(tmp_path / "other")
    (tmp_path / "other/train/star").rename(tmp_path / "other/train/stern")
    sets = [dataset(root, "folders") for root in (tmp_path, tmp_path / "other")]
    cfg = config("mmpretrain", train=sets[0], val=sets[1])
    stops = [line for report in audit_config(cfg) for line in report.stops]
    line = "class folders of two sets differ: 'star' (not here); 2 in all, also 'stern'"
    assert stops == [f"{tmp_path}/other/train: {line}"]


@needs_mmseg
def test_pairs_of_a_config(tmp_path):
    make_pairs(tmp_path)
    (report,) = audit_config(config("mmseg", train=dataset(tmp_path, "pairs")))
    assert report.lines() == [] and report.pictures == 3
    (tmp_path / "map/1.png").unlink()
    (report,) = audit_config(config("mmseg", train=dataset(tmp_path, "pairs")))
    assert report.counts == {"map-missing": 1}


@needs_mmseg
def test_pairs_through_links_as_mmseg_lists_them(tmp_path):
    make_pairs(tmp_path)
    for name in ("img", "map"):
        picture(tmp_path / name / ".hidden/9.jpg", 9)  # a hidden folder is not left out, a hidden file is
        picture(tmp_path / name / ".hidden.jpg", 9)
        (tmp_path / name).rename(tmp_path / f"{name} of a city")
        (tmp_path / name).mkdir()
        os.symlink(tmp_path / f"{name} of a city", tmp_path / name / "city")
        os.symlink(tmp_path / "nowhere", tmp_path / name / "nothing.jpg")
    Image.new("L", SIZE).save(tmp_path / "map/city/.hidden/9.png")
    settings = dataset(tmp_path, "pairs")
    (report,) = audit_config(config("mmseg", train=settings))
    assert report.lines() == [] and report.pictures == len(DATASETS.build(settings)) == 4


@needs_mmseg
@pytest.mark.parametrize("ignored, found", [(100, 100), (255, 255), (100, 255), (255, 100)])
def test_maps_with_another_value_for_ignored(ignored, found, tmp_path):
    make_pairs(tmp_path)
    values = np.zeros(SIZE[::-1], np.uint8)
    values[:4] = found
    for path in (tmp_path / "map").iterdir():
        Image.fromarray(values).save(path)
    (report,) = audit_config(config("mmseg", train=dataset(tmp_path, "pairs", ignore_index=ignored)))
    assert report.counts == ({} if ignored == found else {"map-values": 3})


@needs_mmseg
def test_pictures_that_a_transform_of_ones_own_reads(tmp_path):
    make_pairs(tmp_path)
    for path in (tmp_path / "img").iterdir():
        np.save(path.with_suffix(".npy"), np.zeros((*SIZE[::-1], 8), np.float32))
        path.unlink()
    own = [dict(type="LoadNpy"), dict(type="LoadAnnotations"), dict(type="PackSegInputs")]
    hosts = [dict(type="LoadImageFromFile", imdecode_backend="pillow"), *own[1:]]
    tiff = [dict(type="LoadImageFromFile", imdecode_backend="tifffile"), *own[1:]]

    def look(pipeline):
        settings = dataset(tmp_path, "pairs", img_suffix=".npy", pipeline=pipeline)
        return audit_config(config("mmseg", train=settings))[0]

    line = f"note: {tmp_path}/img: files that OpenCV or Pillow do not read, only looked for: 3 files"
    assert look(own).lines() == [line] and look(tiff).lines() == [f"{line} (imdecode_backend tifffile)"]
    assert look(hosts).counts == {"picture-unreadable": 3}
    (tmp_path / "img/0.npy").write_bytes(b"")
    (tmp_path / "img/1.npy").unlink()
    (tmp_path / "map/1.png").unlink()
    (report,) = audit_config(config("mmseg", train=dataset(tmp_path, "pairs", img_suffix=".npy", pipeline=own)))
    assert report.counts == {"picture-empty": 1, "pictures-not-read": 1}


@pytest.mark.parametrize(
    "leaf, reason",
    [
        (dict(type="mmdet.CocoPanopticDataset"), "it reads a form of data that the audit does not know"),
        (dict(type="mmdet.NoSuchDataset"), "its type is not registered"),
        (dict(type="mmdet.CocoDataset", ann_file="s3://bucket/a.json"), "it is not on a local disk"),
        (dict(type="mmdet.CocoDataset", backend_args=dict(backend="petrel")), "it is not on a local disk"),
        (
            dict(type="mmdet.CocoDataset", anne_file="a.json", backend_args=dict(backend="local")),
            "it cannot be built: ",
        ),
    ],
)
def test_sets_that_are_not_audited_say_so(leaf, reason):
    (report,) = audit_config(config("mmdet", train=leaf))
    assert report.lines()[0].startswith(f"not audited: {leaf['type']}: {reason}") and not report.stops


def test_a_config_without_a_set_passes():
    assert audit_config(Config(dict(default_scope="mmdet", train_dataloader=None, val_dataloader=[]))) == []


def test_sets_made_in_memory_pass():
    assert audit_config(Config.fromfile(ROOT / "configs/sema-pico_digits.py")) == []


def test_pictures_of_validation_that_were_learnt(tmp_path):
    make_coco(tmp_path)
    make_coco(tmp_path / "val")
    for name in NAMES[1:]:
        picture(tmp_path / "val/images" / name, 99)
    cfg = config("mmdet", train=dataset(tmp_path, "coco"), val=dataset(tmp_path / "val", "coco"))
    for _ in range(2):  # the second time from memory
        notes = [line for report in audit_config(cfg, compare=True) for line in report.notes if "same picture" in line]
        assert len(notes) == 1 and f"'{tmp_path}/val/images/a.jpg' ({tmp_path}/images/a.jpg)" in notes[0]


def test_an_evaluator_that_compares_with_other_pictures(tmp_path):
    make_coco(tmp_path)
    make_coco(tmp_path / "other")
    cfg = config("mmdet", val=dataset(tmp_path, "coco"))
    lines = []
    for name in ("train.json", "other/train.json", "nowhere.json"):
        cfg.val_evaluator = dict(type="CocoMetric", ann_file=f"{tmp_path}/{name}")
        lines.append([line for report in audit_config(cfg) for line in report.stops])
    assert lines[:2] == [[], []]  # another file with the same pictures is no fault
    assert len(lines[2]) == 1 and "annotation file is not there" in lines[2][0] and "nowhere.json" in lines[2][0]
    edit(tmp_path / "other", lambda content: [image.update(id=image["id"] + 1) for image in content["images"]])
    cfg.val_evaluator.ann_file = f"{tmp_path}/other/train.json"
    (line,) = [line for report in audit_config(cfg) for line in report.stops]
    assert line == (
        f"{tmp_path}/other/train.json: the evaluator's file has other pictures than the set: 4 of 4 "
        f"(image 1 is not there, in {tmp_path}/train.json a.jpg of 64 x 48)"
    )


def test_an_evaluators_file_counts_in_every_loader(tmp_path):
    make_coco(tmp_path)
    make_coco(tmp_path / "other")
    edit(tmp_path / "other", lambda content: content["images"].pop())
    cfg = config("mmdet", val=dataset(tmp_path, "coco"), test=dataset(tmp_path, "coco"))
    cfg.val_evaluator = dict(type="CocoMetric", ann_file=f"{tmp_path}/train.json")
    cfg.test_evaluator = dict(type="CocoMetric", ann_file=f"{tmp_path}/other/train.json")
    assert [report.counts for report in audit_config(cfg) if report.stops] == [{"evaluator-pictures": 1}]


def test_an_evaluators_file_is_compared_with_cocos_alone(tmp_path):
    captions = dict(type="COCOCaption", ann_file="captions.json", data_root=str(tmp_path))
    cfg = config("mmpretrain", val=captions)
    cfg.val_evaluator = dict(type="COCOCaption", ann_file=f"{tmp_path}/captions_gt.json")
    (report,) = audit_config(cfg)
    assert report.not_audited and report.use == "evaluate"
