"""tools/dataset_converters/nuclei.py and what it is made of, on folders in the layout of the Data Science Bowl."""

import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from commands import run
from pycocotools.coco import COCO

from mmsema.datasets.converters.coco import ConversionError, is_held_out
from mmsema.datasets.converters.masks import convert_nuclei, describe, read_masks

ROOT = Path(__file__).resolve().parents[3]
NAMES = [f"cell{i}" for i in range(10)]
HELD_OUT = ["cell3", "cell5"]  # their SHA-256 is divisible by five


def square(top: int, left: int, side: int = 6, size=(24, 32)) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    mask[top : top + side, left : left + side] = 255
    return mask


def write(root: Path, name: str, masks, channels: int = 4, size=(24, 32)) -> Path:
    """A picture and its masks; masks are arrays, or bytes to be written as they are."""
    for folder in ("images", "masks"):
        (root / name / folder).mkdir(parents=True, exist_ok=True)
    image = np.random.default_rng(0).integers(0, 255, (*size, channels), np.uint8)
    image[..., 3:] = 255
    cv2.imwrite(str(root / name / "images" / f"{name}.png"), image)
    for i, mask in enumerate(masks):
        path = root / name / "masks" / f"{i}.png"
        path.write_bytes(mask if isinstance(mask, bytes) else cv2.imencode(".png", mask)[1].tobytes())
    return root / name


def test_the_command_writes_what_pycocotools_reads(tmp_path):
    ring = square(2, 2, 9)
    ring[5:8, 5:8] = 0
    masks = [ring, square(12, 20), square(14, 22), square(0, 26) | square(18, 0)]  # a hole, an overlap, two parts
    for name in NAMES:
        write(tmp_path / "source", name, [*masks, np.zeros((24, 32), np.uint8)] if name == "cell0" else masks)
    # exit code 1: something was left out
    done = run(sys.executable, ROOT / "tools/dataset_converters/nuclei.py", "source", cwd=tmp_path, code=1)
    assert done.stderr == f"warning: mask {Path('source/cell0/masks/4.png')} is empty: left out\n"
    assert "10 pictures have an alpha channel, which is not used; in 0 of them" in done.stdout
    assert "masks overlap in 10 pictures, by 160 pixels in all: kept" in done.stdout
    for split, names in (("train", sorted(set(NAMES) - set(HELD_OUT))), ("test", HELD_OUT)):
        folder = tmp_path / "data/nuclei"
        assert sorted(path.stem for path in (folder / split).iterdir()) == names
        coco = COCO(folder / f"annotations/instances_{split}.json")
        assert [image["file_name"] for image in coco.dataset["images"]] == [f"{name}.png" for name in names]
        for image in coco.dataset["images"]:
            drawn = [coco.annToMask(one) for one in coco.imgToAnns[image["id"]]]
            assert all((mask == (given > 0)).all() for mask, given in zip(drawn, masks, strict=True))
            written = cv2.imread(str(folder / split / image["file_name"]), cv2.IMREAD_UNCHANGED)
            source = cv2.imread(str(next((tmp_path / "source").glob(f"*/images/{image['file_name']}"))))
            np.testing.assert_array_equal(written, source)
            assert (image["height"], image["width"]) == written.shape[:2]
        first = coco.imgToAnns[1][1]
        assert first["bbox"] == [20, 12, 6, 6] and first["area"] == 36 and first["category_id"] == 1


FAULTS = {
    "an empty mask": (np.zeros((24, 32), np.uint8), "1.png is empty: left out", True),
    "the same mask twice": (square(2, 2), "1.png is the same as 0.png: left out", True),
    "another size": (square(2, 2, size=(32, 24)), "1.png is 24 x 32, its picture 32 x 24: the picture is left", False),
    "a map of labels": (square(2, 2) // 2 + square(12, 20), "1.png has 3 values, of which one must be 0", False),
    "all of it object": (np.full((24, 32), 255, np.uint8), None, True),
    "no picture": (b"nothing", "1.png cannot be read: the picture is left out", False),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_mask_that_cannot_be_used_is_named(name, tmp_path):
    """An object that is not there is no loss; one that is there and unknown costs the picture."""
    mask, words, kept = FAULTS[name]
    write(tmp_path, "a", [square(2, 2), mask])
    write(tmp_path, "b", [square(2, 2)])
    pictures, problems, _ = read_masks(tmp_path, "nucleus")
    assert [picture.path.stem for picture in pictures] == (["a", "b"] if kept else ["b"])
    assert len(pictures[0].objects) == 1 + (words is None)
    if words:
        (problem,) = problems
        assert words in problem and str(tmp_path / "a" / "masks") in problem
    else:
        assert not problems


def test_pictures_that_cannot_be_used_are_named(tmp_path):
    write(tmp_path, "good", [square(2, 2)])
    (tmp_path / "notes").mkdir()  # of no picture
    write(tmp_path, "two", [square(2, 2)])
    (tmp_path / "two/images/other.png").write_bytes((tmp_path / "two/images/two.png").read_bytes())
    (write(tmp_path, "broken", [square(2, 2)]) / "images/broken.png").write_bytes(b"")
    (write(tmp_path, "unlabelled", []) / "masks").rmdir()
    pictures, problems, _ = read_masks(tmp_path, "nucleus")
    assert [picture.path.stem for picture in pictures] == ["good"]
    assert [Path(line.split(" does not have ")[0]).name for line in problems] == ["broken", "two", "unlabelled"]
    assert "a folder masks/" in problems[2]


def test_names_that_are_not_utf8_are_read_and_split(tmp_path):
    """OpenCV ends the process at such a path."""
    for i in range(10):
        folder = write(tmp_path / "source", f"cell{i}", [square(2, 2)])
        name = os.fsdecode(b"stra\xdfe%d" % i)
        (folder / f"images/cell{i}.png").rename(folder / f"images/{name}.png")
        folder.rename(folder.parent / name)
    lines, problems = convert_nuclei(tmp_path / "source", tmp_path / "out")
    assert not problems
    for split in ("train", "test"):
        coco = COCO(tmp_path / f"out/annotations/instances_{split}.json")
        assert coco.imgs and all((tmp_path / "out" / split / one["file_name"]).is_file() for one in coco.imgs.values())


def test_what_file_managers_leave_is_no_mask(tmp_path):
    folder = write(tmp_path, "a", [square(2, 2)])
    for name in ("masks/.DS_Store", "images/.DS_Store", "images/Thumbs.db", "masks/._0.png"):
        (folder / name).write_bytes(b"no picture")
    (picture,), problems, _ = read_masks(tmp_path, "nucleus")
    assert not problems and len(picture.objects) == 1


def test_what_alpha_hides_is_told(tmp_path):
    write(tmp_path, "a", [square(2, 2)], channels=3)
    path = write(tmp_path, "b", [square(2, 2)]) / "images/b.png"
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    image[3, 4, 3] = 0
    cv2.imwrite(str(path), image)
    counts = read_masks(tmp_path, "nucleus")[2]
    assert describe(counts) == ["1 pictures have an alpha channel, which is not used; in 1 of them it hides something"]


@pytest.mark.parametrize("case", ["missing", "empty", "flat"])
def test_a_wrong_folder_is_one_line_and_writes_nothing(case, tmp_path):
    source = tmp_path / "source"
    if case != "missing":
        source.mkdir()
    if case == "flat":
        cv2.imwrite(str(source / "a.png"), square(2, 2))
    with pytest.raises(ConversionError, match=r"source .*source (is not a folder|has no picture with masks)") as error:
        convert_nuclei(source, tmp_path / "out")
    assert "\n" not in str(error.value) and not (tmp_path / "out").exists()


def test_one_name_in_five_is_held_out():
    names = [f"{i:05d}" for i in range(5000)]
    assert 900 < sum(map(is_held_out, names)) < 1100
    assert [name for name in NAMES if is_held_out(name)] == HELD_OUT
