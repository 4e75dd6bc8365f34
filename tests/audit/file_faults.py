"""Faults of picture files, file names, annotation files, image folders and label maps."""

import json
import os
import shutil
from pathlib import Path
from typing import Callable

import numpy as np
from PIL import Image
from planting import SIZE, fault, json_fault, picture

# pictures


@fault("coco", "picture-missing", "{root}/train.json: picture is not there: image 2, 'b.png'")
def picture_missing(root):
    (root / "images/b.png").unlink()


@fault("coco", "picture-missing", "{root}/train.json: picture is not there: image 2, 'b.png'")
def picture_is_a_link_to_nothing(root):
    (root / "images/b.png").unlink()
    os.symlink("nothing.png", root / "images/b.png")


@fault("coco", "picture-missing", "{root}/train.json: picture is not there: image 2, '\\ud800/b.png'")
def picture_in_a_folder_of_an_impossible_name(root):
    content = json.loads((root / "train.json").read_text())
    content["images"][1]["file_name"] = "\ud800/b.png"
    (root / "train.json").write_text(json.dumps(content))


@fault("coco", "picture-empty", "{root}/train.json: picture of 0 bytes: image 1, 'a.jpg'")
def picture_of_0_bytes(root):
    (root / "images/a.jpg").write_bytes(b"")


@fault(
    "coco",
    "picture-unreadable",
    "{root}/train.json: file cannot be read as a picture: image 1, 'a.jpg' (cannot identify image file 'file')",
)
def picture_is_a_web_page(root):
    (root / "images/a.jpg").write_text("<html>404 not found</html>")


@fault(
    "coco",
    "picture-unreadable",
    "{root}/train.json: file cannot be read as a picture: image 1, 'a.jpg' (Is a directory)",
)
def picture_is_a_folder(root):
    (root / "images/a.jpg").unlink()
    (root / "images/a.jpg").mkdir()


def cut(path: Path, share: float) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])


@fault("coco", "picture-truncated", "{root}/train.json: picture is cut off or damaged: image 1, 'a.jpg' (...")
def jpeg_cut_off(root):
    cut(root / "images/a.jpg", 0.9)


@fault("coco", "picture-truncated", "{root}/train.json: picture is cut off or damaged: image 2, 'b.png' (...")
def png_cut_off(root):
    cut(root / "images/b.png", 0.5)


@fault(
    "coco",
    "picture-truncated",
    "{root}/train.json: picture is cut off or damaged: image 2, 'b.png' (...",
    pictures="decode",
)
def png_damaged_inside(root):
    data = bytearray((root / "images/b.png").read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(64)
    (root / "images/b.png").write_bytes(data)


@fault(
    "coco",
    "picture-size",
    "{root}/train.json: picture has another size than its entry says: image 1, 'a.jpg' (file 32 x 24, entry 64 x 48)",
)
def picture_shrunk(root):
    picture(root / "images/a.jpg", 0, (32, 24))


@fault(
    "coco",
    "picture-size",
    "{root}/train.json: picture has another size than its entry says: image 1, 'a.jpg' "
    "(file 48 x 64, entry 64 x 48; EXIF orientation 6 turns it)",
)
def picture_turned_by_exif(root):
    with Image.open(root / "images/a.jpg") as image:
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(root / "images/a.jpg", exif=exif)


# file names


def _name(name: str, why: str, prepare: Callable = lambda root: None) -> Callable:
    def spoil(root: Path) -> None:
        prepare(root)
        content = json.loads((root / "train.json").read_text())
        content["images"][0]["file_name"] = name
        (root / "train.json").write_text(json.dumps(content))

    text = f"{{root}}/train.json: file name leaves the folder of the pictures: image 1, {name!r} ({why})"
    return spoil, text


def _outside(root: Path) -> None:
    shutil.copy(root / "images/a.jpg", root / "outside.jpg")


for label, parts in dict(
    name_with_dots=_name("../outside.jpg", "'..'", _outside),
    name_absolute=_name("/etc/hostname", "absolute path"),
    name_with_backslash=_name("..\\outside.jpg", "backslash", _outside),
    name_with_null_byte=_name("a.jpg\0.png", "null byte"),
    name_is_url=_name("http://example.com/a.jpg", "URL"),
).items():
    parts[0].__name__ = label
    fault("coco", "name-outside", parts[1])(parts[0])


# the file


@json_fault("file-not-coco", "JSON is not a COCO annotation file: results of a detector of 2 entries (...")
def results_file(content):
    return [dict(image_id=1, category_id=1, bbox=[1, 1, 9, 9], score=0.5)] * 2


@json_fault(
    "file-not-coco",
    "JSON is not a COCO annotation file: no images and no annotations and no categories (it has nothing)",
)
def empty_object(content):
    return {}


@json_fault("file-not-coco", "JSON is not a COCO annotation file: images is a dict (expected a list)")
def images_by_name(content):
    content["images"] = {image["file_name"]: image for image in content["images"]}


@json_fault("file-not-coco", "JSON is not a COCO annotation file: annotations[1] is a NoneType (expected an object)")
def annotation_is_null(content):
    content["annotations"][1] = None


@fault("coco", "file-not-json", "{root}/train.json: annotation file is not JSON: character 35 of 38 (cut off)")
def json_cut_off(root):
    text = (root / "train.json").read_text()
    (root / "train.json").write_text(text[: text.index('"a.jpg"') + 3])


@fault(
    "coco",
    "file-not-json",
    "{root}/train.json: annotation file is not JSON: Git-LFS pointer (get the file itself with: git lfs pull)",
)
def json_is_lfs_pointer(root):
    (root / "train.json").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


@fault(
    "coco",
    "file-not-json",
    "{root}/train.json: annotation file is not JSON: HTML or XML page (the download gave a page instead of the file)",
)
def json_is_web_page(root):
    (root / "train.json").write_text("<!DOCTYPE html><html></html>")


@fault("coco", "file-not-json", "{root}/train.json: annotation file is not JSON: empty file")
def json_of_0_bytes(root):
    (root / "train.json").write_text("")


for _mark, _encoding in (("utf-8-sig", "utf-8-sig"), ("utf-16", "utf-16"), ("utf-16 without a mark", "utf-16-le")):

    def _encode(root, encoding=_encoding):
        (root / "train.json").write_bytes((root / "train.json").read_text().encode(encoding))

    _encode.__name__ = f"json in {_mark}"
    fault(
        "coco",
        "file-not-json",
        "{root}/train.json: annotation file is not JSON: not UTF-8, or with a byte order mark "
        "(save it as UTF-8 without one)",
    )(_encode)


@fault("coco", "file-missing", "{root}/train.json: annotation file is not there: {root}/train.json")
def json_missing(root):
    (root / "train.json").unlink()


@json_fault("set-empty", "nothing is left to use: 0 of 0 images, 0 of 0 annotations")
def no_images(content):
    content.update(images=[], annotations=[])


# image folders and lists


@fault(
    "folders",
    "folder-count",
    "{root}/train: number of class folders is not the number of classes: 4 folders (3 classes)",
)
def folder_too_many(root):
    picture(root / "train/moon/0.jpg", 0)


@fault(
    "folders", "class-unknown", "{root}/train: class of the config is not in the data: 'square' (did you mean 'sqare'?)"
)
def folder_misspelt(root):
    (root / "train/square").rename(root / "train/sqare")


@fault("folders", "folder-empty", "{root}/train: class folder without a picture: 'star'")
def folder_empty(root):
    for path in (root / "train/star").iterdir():
        path.unlink()


@fault("folders", "picture-truncated", "{root}/train: picture is cut off or damaged: 'circle/0.jpg' (...")
def picture_in_folder_cut_off(root):
    cut(root / "train/circle/0.jpg", 0.6)


@fault(
    "folders",
    "set-empty",
    "{root}/train: nothing is left to use: no picture (endings: .bmp .jpeg .jpg .pgm .png .ppm .tif)",
    also={"folder-empty": 3},
)
def folders_without_pictures(root):
    for path in sorted((root / "train").glob("*/*.jpg")):
        path.rename(path.with_suffix(".txt"))


def _append(root: Path, line: str) -> None:
    with open(root / "list.txt", "a") as file:
        file.write(line + "\n")


@fault("list", "line-wrong", "{root}/list.txt: line is not a file name and a label: line 7 ('circle/0.jpg')")
def line_without_label(root):
    _append(root, "circle/0.jpg")


@fault("list", "line-wrong", "{root}/list.txt: line is not a file name and a label: line 7 ('')")
def line_empty(root):
    _append(root, "")


@fault(
    "list",
    "label-outside",
    "{root}/list.txt: label is not one of the classes: line 7 (3 for 'new.jpg', expected 0 to 2)",
)
def label_too_large(root):
    picture(root / "train/new.jpg", 9)
    _append(root, "new.jpg 3")


@fault("list", "label-twice", "{root}/list.txt: file has two labels: 'circle/0.jpg' (0 and 2)")
def label_twice(root):
    _append(root, "circle/0.jpg 2")


@fault("list", "name-outside", "{root}/list.txt: file name leaves the folder of the pictures: '../out.jpg' ('..')")
def listed_name_with_dots(root):
    picture(root / "out.jpg", 9)
    _append(root, "../out.jpg 1")


@fault("list", "picture-missing", "{root}/list.txt: picture is not there: 'circle/gone.jpg'")
def listed_picture_missing(root):
    _append(root, "circle/gone.jpg 0")


# pictures with label maps


@fault("pairs", "map-missing", "{root}/img: label map is not there: '1.png'")
def map_missing(root):
    (root / "map/1.png").unlink()


@fault("pairs", "map-values", "{root}/img: label map has values that are no class: '1.png' (3, 200; 3 classes)")
def map_values_too_large(root):
    values = np.zeros(SIZE[::-1], np.uint8)
    values[5], values[6] = 3, 200
    Image.fromarray(values).save(root / "map/1.png")


@fault("pairs", "map-wrong", "{root}/img: label map is not one channel of whole numbers: '1.png' (mode RGB)")
def map_in_colours(root):
    picture(root / "map/1.png", 1)


@fault(
    "pairs",
    "picture-size",
    "{root}/img: picture has another size than its entry says: '1.png' (map 32 x 24, picture 64 x 48)",
)
def map_of_another_size(root):
    Image.fromarray(np.zeros((24, 32), np.uint8)).save(root / "map/1.png")


@fault("pairs", "picture-truncated", "{root}/img: picture is cut off or damaged: '1.jpg' (...")
def picture_of_a_pair_cut_off(root):
    cut(root / "img/1.jpg", 0.5)
