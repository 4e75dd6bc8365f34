"""What is found in a folder of one's own: which annotations, for which pictures, in which part."""

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from voc_files import item, write_voc

from mmsema.datasets.converters.coco import ConversionError
from mmsema.datasets.own import find_own_data

FILES = [f"cell{i}.png" for i in range(10)]  # of which cell3 and cell5 are held out


def write_coco(file: Path, names=FILES, **changes) -> None:
    """One object in each of the pictures; see :func:`write_pictures`."""
    images = [dict(id=i, file_name=name, height=60, width=80) for i, name in enumerate(names, 1)]
    square = dict(category_id=1, bbox=[5, 5, 20, 20], area=400, iscrowd=0, segmentation=[[5, 5, 25, 5, 25, 25, 5, 25]])
    annotations = [dict(square, id=i, image_id=i) for i, _ in enumerate(names, 1)]
    file.parent.mkdir(parents=True, exist_ok=True)
    parts = dict(images=images, annotations=annotations, categories=[dict(id=1, name="cat")])
    file.write_text(json.dumps(dict(parts, **changes)))


def write_pictures(folder: Path, names=FILES, size=(60, 80)) -> None:
    data = cv2.imencode(".png", np.full((*size, 3), 127, np.uint8))[1].tobytes()
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


def names(part) -> list:
    return sorted(image["file_name"] for image in part.content["images"])


@pytest.fixture
def data(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path("data")


def folders(data: Path) -> list:
    found = find_own_data(data)
    return [part.pictures.relative_to(data).as_posix() for part in (found.train, found.val)]


def test_label_maps_of_the_pictures_names_are_not_taken_for_the_pictures(data):
    """Which folder comes first depends on the file system; only a size or a missing picture tells the two apart."""
    for role in ("train", "val"):
        for kind in ("gtFine", "leftImg8bit"):
            write_pictures(data / kind / role)
        write_coco(data / f"annotations/{role}.json")
    with pytest.raises(ConversionError) as error:
        find_own_data(data)
    assert "in several folders (data/gtFine/train, data/leftImg8bit/train); lay the annotation file" in str(error.value)
    write_pictures(data / "gtFine/train", FILES[:1], size=(30, 40))
    (data / "gtFine/val" / FILES[-1]).unlink()
    assert folders(data) == ["leftImg8bit/train", "leftImg8bit/val"]
    assert find_own_data(data).lines[0] == "data/annotations/train.json: 10 pictures, in data/leftImg8bit/train"


def test_pictures_of_the_files_role_go_before_those_of_another(data):
    for role in ("train", "valid"):
        write_pictures(data / role / "images")
    write_coco(data / "annotations/train.json")
    write_coco(data / "annotations/val.json")
    assert folders(data) == ["train/images", "valid/images"]


def test_links_are_followed_once(data):
    other = Path("else/where").absolute()
    write_pictures(other / "images")
    write_coco(other / "lists/all.json")
    data.mkdir()
    for link, target in ((data / "all", other), (data / "self", data.absolute()), (other / "up", other.parent)):
        link.symlink_to(target)
    assert folders(data) == ["all/images"] * 2
    voc = Path("voc")
    for name in FILES:
        write_voc(voc, name[:-4], item("cat", 5, 5, 40, 40))
    for name in ("Annotations", "JPEGImages"):
        (voc / name).rename(other / name)
        (voc / name).symlink_to(other / name)
    assert names(find_own_data(voc).val) == ["JPEGImages/cell3.jpg", "JPEGImages/cell5.jpg"]


@pytest.mark.parametrize(
    "form", ["trains_{}.json", "trainval_annotations/{}.json", "test_{}2017.json", "{}/latest.json"]
)
def test_roles_are_words_of_the_names(form, data):
    for role in ("train", "val"):
        write_pictures(data / role)
        write_coco(data / form.format(role))
    assert folders(data) == ["train", "val"]


def test_of_val_and_test_the_first_is_used(data):
    lists = data / "trainval_annotations"
    for role in ("train", "val", "test"):
        write_pictures(data / role)
        write_coco(lists / f"{role}.json")
    assert folders(data) == ["train", "val"]
    assert f"{lists}/test.json: not used, as there is {lists}/val.json" in find_own_data(data).lines


@pytest.mark.parametrize("form", ["COCO", "VOC"])
def test_pictures_of_one_name_are_split_nevertheless(form, data):
    """The hash of the name puts all of them on one side; the split of other sets stays as it was."""
    scenes = [f"scene{i}/image.png" for i in range(10)]
    if form == "COCO":
        write_pictures(data, scenes)
        write_coco(data / "all.json", scenes)
    for scene in scenes if form == "VOC" else ():
        write_voc(data, "image", item("cat", 5, 5, 40, 40))
        for file in ("JPEGImages/image.jpg", "Annotations/image.xml"):
            (data / scene).parent.mkdir(exist_ok=True)
            (data / file).rename((data / scene).with_suffix(Path(file).suffix))
    found = find_own_data(data)
    (held_out,) = names(found.val)
    assert len(names(found.train)) == 9
    assert f"the names put all pictures on one side, so {held_out} alone is held out" in found.lines


def test_annotations_of_no_picture_are_kept_for_the_audit(data):
    """Split, they were in neither file, and nobody told."""
    write_pictures(data)
    write_coco(data / "all.json")
    whole = json.loads((data / "all.json").read_text())
    for one in whole["annotations"][::2]:
        one["image_id"] = str(one["image_id"])
    (data / "all.json").write_text(json.dumps(whole))
    found = find_own_data(data)
    assert len(found.train.content["annotations"] + found.val.content["annotations"]) == 10


@pytest.mark.parametrize("same", [True, False])
def test_voc_in_folders_of_roles_is_split_by_them(same, data):
    for role in ("train", "valid", "test"):
        for i in range(3):
            path = write_voc(data, f"{i}" if same else f"{role}{i}", item("cat", 5, 5, 40, 40))
            (data / role).mkdir(exist_ok=True)
            for file in (path, data / f"JPEGImages/{path.stem}.jpg"):
                file.rename(data / role / file.name)
    found = find_own_data(data)
    assert {name.split("/")[0] for name in names(found.train)} == {"train"} and len(names(found.train)) == 3
    assert {name.split("/")[0] for name in names(found.val)} == {"valid"} and len(names(found.val)) == 3
    line = "split as the folders say, train and val; 3 pictures of test are not used, as there is val"
    assert line in found.lines and not found.problems
    write_voc(data, "more", item("cat", 5, 5, 40, 40))
    assert "split by the pictures' names" in find_own_data(data).lines


LISTS = {
    "spaces": ("my picture {}", "my picture {}", "utf-8"),
    "labels": ("my picture {}", "my picture {}  -1", "utf-8"),
    "suffixes": ("straße{}.v2", "straße{}.v2.JPG", "utf-8"),
    "byte order mark": ("straße{}", "straße{}", "utf-8-sig"),
}


@pytest.mark.parametrize("case", LISTS)
def test_lists_name_pictures_in_several_ways(case, data):
    name, line, encoding = LISTS[case]
    for i in range(4):
        write_voc(data, name.format(i), item("cat", 5, 5, 40, 40))
    (data / "ImageSets/Main").mkdir(parents=True)
    for file, numbers in (("train", (0, 2)), ("val", (1, 3))):
        text = "\n".join(line.format(i) for i in numbers)
        (data / f"ImageSets/Main/{file}.txt").write_text(text, encoding=encoding)
    found = find_own_data(data)
    for part, numbers in ((found.train, (0, 2)), (found.val, (1, 3))):
        assert names(part) == [f"JPEGImages/{name.format(i)}.jpg" for i in numbers]
    assert not found.problems


def test_lists_that_name_no_picture_are_told(data):
    for name in "ab":
        write_voc(data, name, item("cat", 5, 5, 40, 40))
    (data / "ImageSets/Main").mkdir(parents=True)
    (data / "ImageSets/Main/train.txt").write_text("a\n")
    (data / "ImageSets/Main/val.txt").write_text("other\n")
    with pytest.raises(
        ConversionError, match="no picture is left for .*instances_val.json.* 2 problems: 1 pictures are"
    ):
        find_own_data(data)
    (data / "ImageSets/Main/val.txt").write_text("b\nother\n")
    assert find_own_data(data).problems == ["1 names of train.txt or val.txt have no picture: other"]
    (data / "ImageSets/Main/val.txt").write_text("straße", encoding="latin-1")
    with pytest.raises(ConversionError, match=r"Main/val.txt is not UTF-8, at byte 4; save it as UTF-8"):
        find_own_data(data)


ODD = {
    "categories[0] is a str, expected an object": dict(categories=["cat"]),
    "annotations[0] is a NoneType, expected an object": dict(annotations=[None]),
    "images[0] is a NoneType, expected an object": dict(images=[None]),
    "category_id of annotations[0] is [1], expected int or float or str": dict(annotations=[dict(category_id=[1])]),
    "id of images[0] is [1], expected int or float or str": dict(images=[dict(id=[1])]),
    "file_name of images[0] is 5, expected str": dict(images=[dict(file_name=5)]),
    "image id 7 is there 2 times": dict(images=[dict(id=7, file_name=name) for name in FILES[:2]]),
}


@pytest.mark.parametrize("words", ODD)
def test_entries_of_another_kind_are_one_line(words, data):
    write_pictures(data)
    write_coco(data / "all.json", **ODD[words])
    with pytest.raises(ConversionError) as error:
        find_own_data(data)
    assert str(error.value) == f"data/all.json: {words}"


def test_two_files_may_number_classes_in_two_ways(data):
    for role, first, more in (("train", 1, [dict(id=3, name="bird")]), ("val", 3, [])):
        write_pictures(data / role)
        write_coco(data / f"{role}.json")
        whole = json.loads((data / f"{role}.json").read_text())
        whole["categories"] = [dict(id=first, name="cat"), dict(id=first + 1, name="dog"), *more]
        for i, one in enumerate(whole["annotations"]):
            one["category_id"] = first + i % 2
        (data / f"{role}.json").write_text(json.dumps(whole))
    assert find_own_data(data).classes == ["cat", "dog"]


def test_names_that_are_not_utf8_are_read(data):
    for i in range(2):
        xml = write_voc(data, f"cell{3 - i}", item("cat", 5, 5, 40, 40))
        for file in (xml, data / f"JPEGImages/{xml.stem}.jpg"):
            file.rename(file.with_name(os.fsdecode(b"\xdf%d" % i) + file.suffix))
    found = find_own_data(data)
    assert len(found.train.content["images"] + found.val.content["images"]) == 2 and not found.problems
