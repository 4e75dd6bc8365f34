"""VOC's XML as labelling tools write it, with their faults."""

import cv2
import numpy as np
import pytest
from voc_files import BOX, item, write_voc

from mmsema.datasets.converters.coco import ConversionError
from mmsema.datasets.converters.voc import read_voc, voc_split


def test_boxes_count_from_one_and_end_with_their_last_pixel(tmp_path):
    write_voc(
        tmp_path, "a", item("cat", 1, 1, 80, 60), item("dog", 11, 21, 20, 40, difficult=1), item("cat", 0, 5, 90, 9)
    )
    (picture,), problems = read_voc(tmp_path)
    assert not problems and (picture.height, picture.width) == (60, 80)
    boxes = [one["bbox"] for one in picture.objects]
    assert boxes == [[0, 0, 80, 60], [10, 20, 10, 20], [0, 4, 80, 5]]  # the last reaches out of the picture
    assert [one["iscrowd"] for one in picture.objects] == [0, 1, 0]
    assert [one["category"] for one in picture.objects] == ["cat", "dog", "cat"]


FAULTS = {
    "an empty box": (item("cat", 5, 5, 5, 9), "the box of a cat is empty: 5, 5, 5, 9: left out"),
    "corners in the wrong order": (item("cat", 50, 5, 5, 9), "the box of a cat is empty: 50, 5, 5, 9: left out"),
    "a box outside": (item("cat", 85, 5, 95, 9), "is empty: 85, 5, 95, 9: left out"),
    "no box": ("<object><name>cat</name></object>", "a cat has no bndbox"),
    "no name": (f"<object>{BOX.format(1, 1, 9, 9)}</object>", "an object has no name: left out"),
    "text for a number": (item("cat", "a", 5, 5, 9), "could not convert"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_objects_that_cannot_be_used_are_named(fault, tmp_path):
    text, words = FAULTS[fault]
    write_voc(tmp_path, "a", text, item("cat", 1, 1, 9, 9))
    (picture,), (problem,) = read_voc(tmp_path)
    assert len(picture.objects) == 1 and "a.xml: " in problem and words in problem


def test_pictures_that_cannot_be_used_are_named(tmp_path):
    write_voc(tmp_path, "good", item("cat", 1, 1, 9, 9))
    write_voc(tmp_path, "turned", item("cat", 1, 1, 9, 9), said=(80, 60))
    write_voc(tmp_path, "cut").write_text("<annotation><object>")
    write_voc(tmp_path, "alone")
    (tmp_path / "JPEGImages/alone.jpg").unlink()
    write_voc(tmp_path, "broken")
    (tmp_path / "JPEGImages/broken.jpg").write_bytes(b"")
    pictures, problems = read_voc(tmp_path)
    assert [picture.path.stem for picture in pictures] == ["good"]
    for problem, words in zip(
        problems, ("there are 0 pictures of its name", "not a picture", "no element found", "says 60 x 80"), strict=True
    ):
        assert words in problem and problem.endswith("left out")


def test_the_xml_says_which_of_several_pictures_is_meant(tmp_path):
    """VOC's own folders have label maps of the same names."""
    for name in ("a", "b"):
        write_voc(tmp_path, name, item("cat", 1, 1, 9, 9))
        (tmp_path / "SegmentationClass").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / f"SegmentationClass/{name}.png"), np.zeros((60, 80), np.uint8))
    path = tmp_path / "Annotations/b.xml"
    path.write_text(path.read_text().replace("b.jpg", "b"))
    (picture,), (problem,) = read_voc(tmp_path)
    assert picture.path.name == "a.jpg" and "b.xml: there are 2 pictures of its name" in problem


def test_sizes_are_numbers_however_they_are_written(tmp_path):
    path = write_voc(tmp_path, "a", item("cat", 1, 1, 9, 9))
    path.write_text(path.read_text().replace("<width>80<", "<width> 80.0 <"))
    assert len(read_voc(tmp_path)[0]) == 1


def test_a_folder_without_pictures_is_an_error(tmp_path):
    with pytest.raises(ConversionError, match="has no XML file with a picture of its name"):
        read_voc(tmp_path)


def test_lists_of_names_are_the_split(tmp_path):
    assert voc_split(tmp_path, {"a", "b", "c", "d"}) is None
    lists = tmp_path / "VOC2012/ImageSets/Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\nb\n\n")
    assert voc_split(tmp_path, {"a", "b", "c", "d"}) is None
    (lists / "val.txt").write_text("c 1\n")
    assert voc_split(tmp_path, {"a", "b", "c", "d"}) == ({"a", "b"}, {"c"})
    other = tmp_path / "VOC2007/ImageSets/Main"
    other.mkdir(parents=True)
    (other / "train.txt").write_text("d\n")
    assert voc_split(tmp_path, {"a", "b", "c", "d"}) == ({"a", "b", "d"}, {"c"})
