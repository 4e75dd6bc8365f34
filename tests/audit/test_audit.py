"""Quirks that are no faults, sets compared with one another, configs, and what is remembered."""

import gc
import json
import os
import shutil
import struct
from functools import partial
from pathlib import Path
from typing import Callable

import mmcv
import numpy as np
import pytest
from faults import FAULTS
from file_faults import cut
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from mmengine.registry import DATASETS
from old_torch import needs_mmseg
from PIL import Image, PngImagePlugin
from planting import (
    CLASSES,
    MAKE,
    NAMES,
    SIZE,
    annotation,
    audit,
    find,
    make_coco,
    make_folders,
    make_pairs,
    picture,
    triangle,
)

from mmsema.audit import audit_coco, audit_config, audit_folders, audit_pairs, pictures
from mmsema.audit.folders import EXTENSIONS
from mmsema.audit.run import plan
from mmsema.datasets import Digits

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def edit(root: Path, change) -> None:
    content = json.loads((root / "train.json").read_text())
    change(content)
    (root / "train.json").write_text(json.dumps(content))


def test_cocos_quirks_are_no_faults(tmp_path):
    make_coco(tmp_path)

    def change(content):
        content["annotations"] += [
            annotation(21, 2, 1, [triangle(43.5, 30)]) | dict(bbox=[43.5, 30.0, 21.3, 18.9]),  # a little over the edge
            annotation(22, 2, 1, [triangle()]) | dict(bbox=[5.0, 5.0, 0.6, 4.0], area=0.3),  # a sliver
        ]
        content["images"].append(dict(id=9, file_name="copy.jpg", width=SIZE[0], height=SIZE[1]))
        content["categories"].append(dict(id=90, name="toothbrush"))  # of which there is nothing

    edit(tmp_path, change)
    picture(tmp_path / "images/copy.jpg", 9)
    for use in ("train", "evaluate", "predict"):
        report = audit("coco", tmp_path, use=use)
        assert report.stops == report.drops == [], report.lines()
        assert "box-over-the-edge" not in report.counts
    edit(tmp_path, lambda content: find(content, 21)["bbox"].__setitem__(2, 23.0))  # 66.5 of 64
    assert audit("coco", tmp_path).counts["box-over-the-edge"] == 1


def test_a_part_of_the_classes_may_be_learnt_but_is_named(tmp_path):
    make_coco(tmp_path)
    report = audit("coco", tmp_path, classes=("square",))
    line = "category is not among the classes: 'circle' (2 annotations left out); 2 in all, also 'star'"
    assert not report.stops and report.drops == [f"{tmp_path}/train.json: {line}"]


def test_counts_do_not_end_with_the_examples(tmp_path):
    make_coco(tmp_path)
    edit(tmp_path, lambda c: c["annotations"].extend(dict(find(c, 11), id=100 + i, image_id=77) for i in range(50)))
    report = audit("coco", tmp_path)
    assert report.counts["annotation-of-no-image"] == 50
    others = "annotation 101, annotation 102, annotation 103, annotation 104, ..."
    assert report.drops[0].endswith(f"annotation 100 (image_id 77); 50 in all, also {others}")


def test_all_faults_are_told_at_once(tmp_path):
    make_coco(tmp_path)
    edit(tmp_path, lambda c: (c["images"][0].update(width=1), c["categories"][0].update(name="sphere")))
    (tmp_path / "images" / NAMES[1]).unlink()
    causes = {"picture-missing", "picture-size", "class-unknown"}
    assert causes <= set(audit("coco", tmp_path).counts)
    assert gc.isenabled()


def test_quick_reads_some_headers_and_looks_for_every_file(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "QUICK_PICTURES", 2)  # the first and the last
    make_coco(tmp_path)
    cut(tmp_path / "images" / NAMES[1], 0.5)
    assert audit("coco", tmp_path, pictures="quick").stops == []
    assert audit("coco", tmp_path, pictures="all").counts["picture-truncated"] == 1
    (tmp_path / "images" / NAMES[1]).unlink()
    assert audit("coco", tmp_path, pictures="quick").counts["picture-missing"] == 1


def test_a_pixel_format_that_exif_leaves_alone(tmp_path):
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(path, exif=exif)
    assert pictures.probe(str(path))[2] == (10, 20)
    assert pictures.probe(str(path), exif=False)[2] == (20, 10)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
@pytest.mark.parametrize(
    "data, causes",  # of OpenCV and of Pillow, which refuses what is no TIFF
    [
        (b"no TIFF at all", ("", "picture-unreadable")),
        (b"II*\0", ("", "picture-unreadable")),
        (b"II*\0" + struct.pack("<IHHHI4sI", 8, 1, 0x0112, 2, 2, b"6", 0), ("", "")),
        (b"II*\0" + struct.pack("<IHHHI4sI", 8, 1, 0x0112, 7, 1, b"\6", 0), ("", "")),  # which OpenCV obeys in a JPEG
    ],
    ids=["no TIFF", "cut off", "orientation is a text", "orientation is a byte"],
)
def test_malformed_exif_does_no_harm(data, causes, name, tmp_path):
    path = tmp_path / name
    Image.new("RGB", (20, 10)).save(path, exif=b"Exif\0\0" + data, dpi=(72, 72))
    for decoder, cause in zip(("cv2", "pillow"), causes, strict=True):
        found = pictures.probe(str(path), decoder=decoder)
        assert found[0] == cause, found
        if cause:
            with pytest.raises((SyntaxError, struct.error)):
                mmcv.imfrombytes(path.read_bytes(), backend=decoder)
        else:
            assert found[2] == mmcv.imfrombytes(path.read_bytes(), backend=decoder).shape[1::-1]


def test_a_picture_that_fails_in_no_known_way_is_named(tmp_path, monkeypatch):
    def fail(path, image):
        raise struct.error("too short")

    make_coco(tmp_path)
    monkeypatch.setattr(pictures, "_is_cut", fail)
    (line,) = audit("coco", tmp_path).stops
    assert ": file cannot be read as a picture: image 1, 'a.jpg' (error: too short); 4 in all" in line


def test_a_map_that_fails_in_no_known_way_is_named(tmp_path, monkeypatch):
    make_pairs(tmp_path)
    Image.new("L", (200, 100)).save(tmp_path / "map/1.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 9000)
    report = audit("pairs", tmp_path)
    assert report.counts == {"picture-unreadable": 1} and "'1.png' (DecompressionBombError: " in report.stops[0]


@pytest.mark.parametrize("flag", ["color", "grayscale", "unchanged"])
@pytest.mark.parametrize("decoder", ["cv2", "pillow"])
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
def test_a_size_is_the_loaders(name, decoder, flag, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (20, 10)).save(tmp_path / name, exif=exif)
    loaded = mmcv.imfrombytes((tmp_path / name).read_bytes(), flag=flag, backend=decoder)
    found = pictures.probe(str(tmp_path / name), exif=flag != "unchanged", decoder=decoder)
    assert found[0] == "" and found[2] == loaded.shape[1::-1]


@pytest.mark.parametrize("exif", [False, True], ids=["XMP alone", "beside EXIF without one"])
@pytest.mark.parametrize("decoder", ["cv2", "pillow"])
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
def test_an_orientation_in_xmp_is_pillows_alone(name, decoder, exif, tmp_path):
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    tags = Image.Exif()
    tags[0x010F] = "maker"
    options = dict(exif=tags) if exif else {}
    if name == "a.png":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp.decode())
        options["pnginfo"] = info
    else:
        options["xmp"] = xmp
    Image.new("RGB", (20, 10)).save(tmp_path / name, **options)
    loaded = mmcv.imfrombytes((tmp_path / name).read_bytes(), backend=decoder)
    assert pictures.probe(str(tmp_path / name), decoder=decoder)[2] == loaded.shape[1::-1]


def test_a_polygon_that_crosses_itself_covers_its_halves(tmp_path):
    """As pycocotools fills it, though the halves' signs cancel; a line there and back covers nothing."""
    make_coco(tmp_path)
    file = tmp_path / "train.json"
    content = json.loads(file.read_text())
    content["annotations"][0]["segmentation"] = [[4, 4, 24, 20, 24, 4, 4, 20]]
    file.write_text(json.dumps(content))
    assert audit("coco", tmp_path).stops == []
    content["annotations"][0]["segmentation"] = [[4, 4, 24, 4, 24, 20, 24, 4]]
    file.write_text(json.dumps(content))
    assert audit("coco", tmp_path).counts["mask-empty"] == 1


def test_a_number_of_thousands_of_digits(tmp_path):
    make_coco(tmp_path)
    file = tmp_path / "train.json"
    file.write_text(file.read_text().replace('"id": 11', '"id": ' + "1" * 5000))
    assert audit("coco", tmp_path).counts == {"file-not-coco": 1}


def test_a_tiff_that_opencv_reads_as_it_is_but_not_in_colours(tmp_path):
    path = str(tmp_path / "a.tif")
    Image.new("F", (20, 10)).save(path)
    for form in (False, True):
        assert pictures.probe(path, form) == ("picture-unreadable", "TIFF is not read by OpenCV", (20, 10))
        assert (
            pictures.probe(path, form, exif=False) == pictures.probe(path, form, decoder="pillow") == ("", "", (20, 10))
        )
    Image.new("RGB", (200, 100)).save(path)
    cut(Path(path), 0.5)
    assert pictures.probe(path)[0] == "picture-truncated"


@pytest.mark.parametrize("mode, name", [("CMYK", "a.jpg"), ("L", "a.png"), ("I;16", "a.png"), ("RGBA", "a.webp")])
def test_pictures_that_hosts_read(mode, name, tmp_path):
    Image.new(mode, (20, 10)).save(tmp_path / name)
    assert pictures.probe(str(tmp_path / name)) == ("", "", (20, 10))


def test_bytes_after_a_jpegs_end_are_no_fault(tmp_path):
    picture(tmp_path / "a.jpg", 0)
    with open(tmp_path / "a.jpg", "ab") as file:
        file.write(b"from a camera")
    assert pictures.probe(str(tmp_path / "a.jpg"))[0] == ""


@pytest.mark.scorecard("data")
def test_hidden_folders_become_classes(tmp_path):
    make_folders(tmp_path)
    (tmp_path / "train/.ipynb_checkpoints").mkdir()
    report = audit_folders(tmp_path / "train")
    assert report.counts == {"folder-hidden": 1} and "'.ipynb_checkpoints'" in report.stops[0]


def test_folders_that_are_called_otherwise_than_the_classes(tmp_path):
    make_folders(tmp_path)
    assert audit_folders(tmp_path / "train", classes=("n01", "n02", "n03")).lines() == []
    assert audit_folders(tmp_path / "no such").counts == {"folder-missing": 1}


def dataset(root: Path, kind: str, **settings) -> dict:
    if kind == "coco":
        prefix, metainfo = dict(img="images/"), dict(classes=CLASSES)
        named = dict(data_root=str(root), ann_file="train.json", data_prefix=prefix, metainfo=metainfo)
        return dict(dict(type="mmdet.CocoDataset", **named), **settings)
    if kind == "pairs":
        prefix, metainfo = dict(img_path="img", seg_map_path="map"), dict(classes=CLASSES)
        return dict(type="mmseg.BaseSegDataset", data_root=str(root), data_prefix=prefix, metainfo=metainfo, **settings)
    return dict(dict(type="mmpretrain.CustomDataset", data_prefix=str(root / "train"), ann_file=""), **settings)


def config(scope: str, **loaders) -> Config:
    return Config(dict(default_scope=scope, **{f"{key}_dataloader": dict(dataset=v) for key, v in loaders.items()}))


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


def test_a_list_of_pairs_that_is_not_utf_8(tmp_path):
    make_pairs(tmp_path)
    (tmp_path / "list.txt").write_bytes(b"0\n1\nFu\xdfg\xe4nger\n")
    report = audit_pairs(tmp_path / "img", tmp_path / "map", 3, tmp_path / "list.txt")
    assert report.stops == [f"{tmp_path}/list.txt: line is not a file name and a label: byte 6 (not UTF-8)"]


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


@pytest.mark.parametrize("name", ["link.jpg", "link/a.jpg"])
def test_links_may_lead_anywhere(name, tmp_path):
    make_coco(tmp_path)
    picture(tmp_path / "elsewhere/a.jpg", 0)
    os.symlink(tmp_path / "elsewhere/a.jpg", tmp_path / "images/link.jpg")
    os.symlink(tmp_path / "elsewhere", tmp_path / "images/link")
    edit(tmp_path, lambda content: content["images"][0].update(file_name=name))
    report = audit("coco", tmp_path)
    assert not report.stops and not report.drops
    (tmp_path / "elsewhere/a.jpg").unlink()
    assert audit("coco", tmp_path).counts["picture-missing"] == 1


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


def looks_at(cfg: Config, form: str = "quick", then: Callable = lambda: None) -> bool:
    """Whether an audit reads files, and does not take them from memory; ``then`` is called when it has listed them."""
    looked = []

    def progress(items, description):
        then()
        looked.append(description)
        return items

    audit_config(cfg, pictures=form, progress=progress)
    return bool(looked)


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


def test_what_was_fit_is_remembered_until_it_changes(tmp_path):
    make_coco(tmp_path)
    cfg = config("mmdet", train=dataset(tmp_path, "coco"))
    looks = partial(looks_at, cfg)
    assert looks("all") and not looks("all") and not looks("quick") and looks("decode") and not looks("all")
    picture(tmp_path / "images/a.jpg", 7)  # in place
    assert looks() and not looks()
    picture(tmp_path / "images/new.jpg", 8)
    assert looks() and not looks()
    cut(tmp_path / "images" / NAMES[2], 0.5)  # in a folder inside
    assert looks() and looks()  # a set that is not fit is looked at every time
    picture(tmp_path / "images" / NAMES[2], 2)
    assert looks() and not looks()
    edit(tmp_path, lambda content: content["annotations"].pop())
    assert looks() and not looks()
    cfg.train_dataloader.dataset.metainfo.classes = CLASSES[:2]
    assert looks() and not looks()
    for path in (tmp_path / "cache/mmsema/audit").iterdir():
        path.write_text("{")
    assert looks() and not looks()


@pytest.mark.parametrize("kind", ["coco", "folders"])
def test_what_changes_during_the_audit_is_not_remembered(kind, tmp_path):
    MAKE[kind](tmp_path)
    cfg = config(dict(coco="mmdet", folders="mmpretrain")[kind], train=dataset(tmp_path, kind))
    folder = tmp_path / dict(coco="images", folders="train/circle")[kind]
    looks = partial(looks_at, cfg)
    changes = [lambda: picture(folder / "new.jpg", 8), lambda: picture(folder / "new.jpg", 9)]
    if kind == "coco":
        changes.append(lambda: edit(tmp_path, lambda content: content["annotations"].pop()))
    for change in changes:
        assert looks(then=change) and looks() and not looks()
        shutil.rmtree(tmp_path / "cache")


def test_classes_that_stand_outside_of_the_config_are_remembered_too(tmp_path, monkeypatch):
    class Own(CocoDataset):
        METAINFO = dict(classes=CLASSES)

    monkeypatch.setitem(DATASETS.module_dict, "OwnForThisTest", Own)
    make_coco(tmp_path)
    names, misspelt = tmp_path / "classes.txt", ("circle", "sqare", "star")
    names.write_text("\n".join(CLASSES))
    own, file = dict(type="OwnForThisTest", metainfo=None), dict(metainfo=dict(classes=str(names)))
    configs = [config("mmdet", train=dataset(tmp_path, "coco", **settings)) for settings in (own, file)]
    for cfg in configs:
        assert looks_at(cfg) and not looks_at(cfg)
    Own.METAINFO = dict(classes=misspelt)
    names.write_text("\n".join(misspelt))
    for cfg in configs:
        assert "class-unknown" in audit_config(cfg, pictures="quick")[0].counts


@needs_mmseg
def test_defaults_of_a_class_are_remembered_too(tmp_path, monkeypatch):
    from mmseg.datasets import BaseSegDataset

    class Own(BaseSegDataset):
        zero = True

        def __init__(self, **settings):
            super().__init__(reduce_zero_label=self.zero, **settings)

    monkeypatch.setitem(DATASETS.module_dict, "OwnForThisTest", Own)
    make_pairs(tmp_path)
    Image.new("L", SIZE, len(CLASSES)).save(tmp_path / "map/1.png")
    cfg = config("mmseg", train=dict(dataset(tmp_path, "pairs"), type="OwnForThisTest"))
    assert looks_at(cfg) and not looks_at(cfg)
    Own.zero = False
    assert audit_config(cfg, pictures="quick")[0].counts == {"map-values": 1}


def test_endings_come_in_the_same_order_in_every_process(tmp_path):
    endings = plan(dataset(tmp_path, "folders"), "train", masks=False, alone=True).keywords["extensions"]
    assert endings == sorted(EXTENSIONS)


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    make_coco(tmp_path)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    (report,) = audit_config(config("mmdet", train=dataset(tmp_path, "coco")))
    assert not report.stops


def test_lvis_names_and_its_missing_iscrowd(tmp_path):
    make_coco(tmp_path)

    def change(content):
        for image in content["images"]:
            image["coco_url"] = f"http://images.cocodataset.org/images/{image.pop('file_name')}"
        for entry in content["annotations"]:
            del entry["iscrowd"]

    edit(tmp_path, change)
    report = audit_coco(tmp_path / "train.json", tmp_path, use="evaluate", lvis=True)
    assert report.lines() == []


def test_a_use_that_is_none():
    with pytest.raises(ValueError, match="use must be one of train, evaluate, predict, got 'test'"):
        audit_coco("a.json", os.curdir, use="test")


def test_an_object_of_no_size_in_validation_has_no_mask_either(tmp_path):
    make_coco(tmp_path)
    line = dict(segmentation=[[4, 4, 9, 4, 14, 4]], bbox=[4, 4, 10, 0], area=0)
    edit(tmp_path, lambda content: find(content, 11).update(line))
    for use in ("train", "evaluate"):
        report = audit("coco", tmp_path, use=use)
        assert not report.stops and report.counts["box-no-size"] == 1
