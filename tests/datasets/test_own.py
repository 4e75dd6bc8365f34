"""What is found in a folder of one's own: which annotations, for which pictures, in which part."""

import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmsema.datasets.converters.coco import ConversionError
from mmsema.datasets.own import find_own_data

sys.path.insert(0, str(Path(__file__).parent / "converters"))
from test_voc import item, write_voc  # noqa: E402

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
