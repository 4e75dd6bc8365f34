"""Quirks that are no faults, what is told, and how."""

import gc
import json
import os
import struct

import pytest
from file_faults import cut
from PIL import Image
from planting import (
    NAMES,
    SIZE,
    annotation,
    audit,
    edit,
    find,
    make_coco,
    make_folders,
    make_pairs,
    picture,
    triangle,
)

from mmsema.audit import audit_coco, audit_folders, audit_pairs, pictures


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


def test_a_list_of_pairs_that_is_not_utf_8(tmp_path):
    make_pairs(tmp_path)
    (tmp_path / "list.txt").write_bytes(b"0\n1\nFu\xdfg\xe4nger\n")
    report = audit_pairs(tmp_path / "img", tmp_path / "map", 3, tmp_path / "list.txt")
    assert report.stops == [f"{tmp_path}/list.txt: line is not a file name and a label: byte 6 (not UTF-8)"]


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
