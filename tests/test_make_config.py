"""tools/make_config.py: from a folder of one's own to a config that trains, in each of the forms that data comes in."""

import json
import os
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from commands import run
from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope
from voc_files import item, write_voc

from mmsema.datasets.shapes import CLASSES, make_shapes
from mmsema.engine import UsageError
from mmsema.engine.check import find_faults
from mmsema.make_config import make_config

ROOT = Path(__file__).resolve().parents[1]

NAMES = [f"cell{i}" for i in range(10)]  # of which cell3 and cell5 are held out


def snapshot(folder: Path) -> dict:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def content(file: str) -> dict:
    return json.loads(Path(file).read_text())


def files(part: dict) -> list:
    return sorted(Path(image["file_name"]).stem for image in part["images"])


@pytest.fixture
def work(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def loss(config: str) -> float:
    """Of two pictures as the config loads them, with the gradient computed; the config itself has no fault."""
    cfg = Config.fromfile(config)
    assert find_faults(cfg) == []
    init_default_scope(cfg.default_scope)
    assert len(DATASETS.build(cfg.val_dataloader.dataset)) > 0
    data = [DATASETS.build(cfg.train_dataloader.dataset)[i] for i in (0, 1)]
    model = MODELS.build(cfg.model).train()
    batch = {key: [one[key] for one in data] for key in data[0]}
    value, _ = model.parse_losses(model(**model.data_preprocessor(batch, True), mode="loss"))
    value.backward()
    return value.item()


@pytest.mark.slow
def test_coco_files_are_used_as_they_are(work):
    make_shapes("data/shapes", dict(train=6, val=2))
    before = snapshot(work / "data")
    lines = make_config("data/shapes", "mine.py")
    assert snapshot(work / "data") == before
    assert any("with masks" in line for line in lines)
    cfg = Config.fromfile("mine.py")
    train, val = cfg.train_dataloader.dataset, cfg.val_dataloader.dataset
    assert (train.ann_file, train.data_prefix.img) == ("annotations/instances_train.json", "train/")
    assert (val.ann_file, val.data_prefix.img) == ("annotations/instances_val.json", "val/")
    assert tuple(cfg.classes) == CLASSES and cfg.model.roi_head.mask_head.num_classes == 4
    assert cfg.val_evaluator.metric == ["bbox", "segm"] and cfg.max_epochs == 60
    assert loss("mine.py") > 0


def test_one_coco_file_is_split_by_the_names_hash(work):
    make_shapes("data", dict(train=10))
    file = work / "data/annotations/instances_train.json"
    whole = content(file)
    for image, name in zip(whole["images"], NAMES, strict=True):
        (work / "data/train" / image["file_name"]).rename(work / f"data/train/{name}.jpg")
        image["file_name"] = f"{name}.jpg"
    file.write_text(json.dumps(whole))
    before = snapshot(work / "data")
    make_config("data", "mine.py")
    assert before.items() <= snapshot(work / "data").items()
    train, val = (content(f"data/mmsema/instances_{name}.json") for name in ("train", "val"))
    assert files(val) == ["cell3", "cell5"] and files(train) == sorted({*NAMES} - {"cell3", "cell5"})
    assert len(train["annotations"]) + len(val["annotations"]) == len(whole["annotations"])
    assert {one["image_id"] for one in val["annotations"]} <= {image["id"] for image in val["images"]}
    assert loss("mine.py") > 0
    make_config("data", "again.py")  # its own files are not taken for the user's
    assert content("data/mmsema/instances_val.json") == val


def test_classes_are_in_the_files_order(work):
    """As mmdet counts them, whatever their ids."""
    make_shapes("data", dict(train=6, val=2))
    for name in ("train", "val"):
        file = work / f"data/annotations/instances_{name}.json"
        whole = content(file)
        whole["categories"].reverse()
        file.write_text(json.dumps(whole))
    make_config("data", "mine.py")
    assert tuple(Config.fromfile("mine.py").classes) == CLASSES[::-1]


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda text: "\ufeff" + text, "BOM"),
        (lambda text: text[:-50], "Unterminated|Expecting"),
        (lambda text: "", "Expecting value"),
    ],
)
def test_annotations_that_cannot_be_read_are_not_passed_over(spoil, words, work):
    """Else the other file would be split, and training see what it is validated on."""
    make_shapes("data", dict(train=6, val=6))
    file = work / "data/annotations/instances_train.json"
    file.write_text(spoil(file.read_text()), encoding="utf-8")
    with pytest.raises(UsageError, match=f"instances_train.json cannot be read: .*({words}).*; mend it or take it out"):
        make_config("data", "mine.py")
    assert not Path("data/mmsema").exists()


def test_pictures_of_no_list_are_counted(work):
    for name in "abcd":
        write_voc(
            work / "data", name, item("cat", 1, 1, 40, 40), *[item("cat", 1, 1, 9, 9, difficult=1)] * (name < "c")
        )
    lists = work / "data/ImageSets/Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\nc\n")
    (lists / "val.txt").write_text("b\n")
    lines = make_config("data", "my own.py")
    assert "2 crowds are passed over, in training and evaluation" in lines
    assert "# python tools/train.py 'my own.py'\n" in Path("my own.py").read_text()
    assert "left out: 1 pictures are in neither list, train.txt or val.txt: d" in lines
    assert files(content("data/mmsema/instances_train.json")) == ["a", "c"]


@pytest.mark.slow
def test_voc_becomes_a_detector_of_boxes(work):
    boxes = [item("cat", 20, 20, 50, 50), item('dog\'s "friend"', 60, 30, 80, 55)]
    for name in NAMES:
        write_voc(work / "data", name, *boxes, item("cat", 9, 9, 9, 9), size=(100, 120))
    lists = work / "data/ImageSets/Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("\n".join(NAMES[:7]))
    (lists / "val.txt").write_text("\n".join(NAMES[7:9]))
    lines = make_config("data", "mine.py", arch="tiny")
    assert sum(line.startswith("left out: ") and "the box of a cat is empty" in line for line in lines) == 10
    assert files(content("data/mmsema/instances_train.json")) == NAMES[:7]
    assert files(content("data/mmsema/instances_val.json")) == NAMES[7:9]
    cfg = Config.fromfile("mine.py")
    assert tuple(cfg.classes) == ("cat", 'dog\'s "friend"') and cfg.model.roi_head.mask_head is None
    assert cfg.model.neck.in_channels == [64, 128, 256, 512] and cfg.val_evaluator.metric == ["bbox"]
    assert loss("mine.py") > 0


def write_masks(root: Path, size=(300, 300), count: int = 2) -> None:
    for name in NAMES:
        for folder in ("images", "masks"):
            (root / name / folder).mkdir(parents=True)
        picture = np.random.default_rng(0).integers(0, 255, (*size, 4), np.uint8)
        cv2.imwrite(str(root / name / f"images/{name}.png"), picture)
        for i in range(count):
            mask = np.zeros(size, np.uint8)
            mask[10:20, 12 * i + 10 : 12 * i + 20] = 255
            cv2.imwrite(str(root / name / f"masks/{i}.png"), mask)


@pytest.mark.slow
def test_masks_of_small_objects_are_trained_on_in_crops(work):
    write_masks(work / "data", count=22)
    before = snapshot(work / "data")
    lines = make_config("data", "mine.py", name="nucleus")
    assert before.items() <= snapshot(work / "data").items()
    cfg = Config.fromfile("mine.py")
    assert tuple(cfg.classes) == ("nucleus",)
    assert cfg.size_train == dict(type="RandomCrop", crop_size=(256, 256)) and any(
        "crops of 256" in one for one in lines
    )
    assert cfg.model.rpn_head.anchor_generator.scales == [2, 4]
    assert files(content("data/mmsema/instances_val.json")) == ["cell3", "cell5"]
    assert loss("mine.py") > 0


def test_sizes_and_schedule_follow_the_pictures(work):
    write_voc(work / "data", "cell3", item("cat", 100, 100, 700, 700), size=(1500, 2000))
    for i in range(8):
        write_voc(work / "data", f"b{i}", *[item("cat", 100, 100, 900, 800)] * 101, size=(1500, 2000))
    make_config("data", "mine.py")
    cfg = Config.fromfile("mine.py")
    assert cfg.size_train == dict(type="Resize", scale=(320, 320), keep_ratio=True) == cfg.size_test
    assert cfg.model.rpn_head.anchor_generator.scales == [4] and cfg.model.test_cfg.rcnn.max_per_img == 150
    assert cfg.max_epochs == 60 and cfg.train_cfg.val_interval == 20


def test_the_backbone_starts_from_weights(work):
    make_shapes("data", dict(train=2, val=1))
    make_config("data", "first.py")
    first = MODELS.build(Config.fromfile("first.py").model)
    torch.save(dict(state_dict=first.state_dict()), "first.pth")
    write_voc(work / "boxes", "cell3", item("cat", 20, 20, 50, 50))
    write_voc(work / "boxes", "a", item("cat", 20, 20, 50, 50))
    make_config("boxes", "second.py", weights="first.pth")  # other classes, no masks
    cfg = Config.fromfile("second.py")
    assert find_faults(cfg) == []
    second = MODELS.build(cfg.model)
    second.init_weights()
    expected = first.backbone.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in second.backbone.state_dict().items())


def test_a_config_elsewhere_finds_its_base(work):
    make_shapes("data", dict(train=2, val=1))
    make_config("data", "deep/er/mine.py")
    assert os.path.isabs(Path("deep/er/mine.py").read_text().split('_base_ = "')[1].split('"')[0])
    Config.fromfile("deep/er/mine.py")


def faulty(work: Path, case: str) -> None:
    if case == "missing picture":
        next((work / "data/train").iterdir()).unlink()
    elif case == "two for training":
        file = work / "data/annotations/instances_train.json"
        (work / "data/annotations/other_train.json").write_bytes(file.read_bytes())
    elif case == "nothing":
        (work / "data/annotations/instances_train.json").write_text("[]")
        (work / "data/annotations/instances_val.json").write_text("{}")
    elif case == "no objects":
        file = work / "data/annotations/instances_train.json"
        file.write_text(json.dumps(dict(content(file), annotations=[])))
    elif case == "image ids of another kind":
        file = work / "data/annotations/instances_train.json"
        whole = content(file)
        annotations = [dict(one, image_id=str(one["image_id"])) for one in whole["annotations"]]
        file.write_text(json.dumps(dict(whole, annotations=annotations)))
    elif case == "there already":
        (work / "mine.py").write_text("mine")


CASES = {
    "missing picture": "annotations/instances_train.json: ",
    "two for training": "several annotation files (annotations/instances_train.json, annotations/other_train.json)",
    "nothing": "data has no annotations: a COCO file",
    "no objects": "instances_train.json",
    "image ids of another kind": "annotation of an image that is not listed: annotation 1 (image_id '1')",
    "there already": "mine.py exists already",
}


@pytest.mark.parametrize("case", CASES)
def test_data_that_is_not_fit_is_one_line_and_no_config(case, work):
    make_shapes("data", dict(train=3, val=1))
    faulty(work, case)
    with pytest.raises(UsageError) as error:
        make_config("data", "mine.py")
    assert CASES[case] in str(error.value) and "\n" not in str(error.value)
    assert not Path("mine.py").exists() or Path("mine.py").read_text() == "mine"


def test_a_place_that_cannot_be_written_to_is_one_line(work):
    make_shapes("data", dict(train=3, val=1))
    Path("notes.txt").write_text("")
    with pytest.raises(UsageError, match=r"^out notes.txt: .*notes.txt is a file, not a folder$"):
        make_config("data", "notes.txt/mine.py")


def test_data_that_cannot_be_written_beside_is_one_line(work):
    make_shapes("data", dict(train=12))
    Path("data/mmsema").write_text("a file where the folder is to be")
    with pytest.raises(UsageError, match=r"^data/mmsema.*: (File exists|Not a directory)$"):
        make_config("data", "mine.py")


def test_folders_are_searched_as_deep_as_it_takes(work):
    """A COCO file's own name says what it is for, whatever folder it is in; masks lie in a folder of the data's."""
    make_shapes("data/train_set", dict(train=3, val=2))
    make_config("data", "coco.py")
    cfg = Config.fromfile("coco.py")
    parts = [cfg[f"{part}_dataloader"].dataset for part in ("train", "val")]
    assert [len(content(Path(part.data_root, part.ann_file))["images"]) for part in parts] == [3, 2]
    write_masks(work / "cells/stage1_train")
    make_config("cells", "cells.py")
    write_masks(work / "cells/stage1_test")
    with pytest.raises(UsageError, match="several folders of pictures with masks .*stage1_test, .*stage1_train"):
        make_config("cells", "again.py")


def test_masks_of_another_kind_are_passed_over(work):
    """A folder of that name at the top, as VOC data sets may have one, is none of one picture's masks."""
    for name in NAMES:
        write_voc(work / "data", name, item("cat", 5, 5, 40, 40))
    for name in ("masks", "images", "more/masks"):
        (work / "data" / name).mkdir(parents=True)
    make_config("data", "mine.py")
    assert tuple(Config.fromfile("mine.py").classes) == ("cat",)


def test_a_validation_object_without_a_mask_makes_a_detector_of_boxes(work):
    make_shapes("data", dict(train=3, val=2))
    file = work / "data/annotations/instances_val.json"
    part = content(file)
    del part["annotations"][0]["segmentation"]
    file.write_text(json.dumps(part))
    (line,) = [line for line in make_config("data", "mine.py") if "no mask" in line]
    assert line.startswith("1 of ") and line.endswith("(the first: annotation 1), so boxes alone are learnt")
    assert Config.fromfile("mine.py").model.type == "FasterRCNN"


def test_annotations_to_be_ignored_need_no_box(work):
    make_shapes("data", dict(train=3, val=2))
    file = work / "data/annotations/instances_train.json"
    part = content(file)
    part["annotations"].append(dict(id=10**6, image_id=1, category_id=1, ignore=1))
    file.write_text(json.dumps(part))
    make_config("data", "mine.py")
    assert Config.fromfile("mine.py").model.type == "MaskRCNN"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (dict(folder="nowhere"), "data nowhere is not a folder"),
        (dict(out="mine.json"), "out must be a .py file"),
        (dict(arch="huge"), "backbone must be one of pico, tiny, small, base, got 'huge'"),
        (dict(weights="nowhere.pth"), "weights nowhere.pth is not a file"),
    ],
)
def test_arguments_are_checked(arguments, words, work):
    with pytest.raises(UsageError, match=words):
        make_config(**dict(dict(folder=".", out="mine.py"), **arguments))


@pytest.mark.slow
def test_from_a_folder_to_pictures_as_the_page_says(work):
    """Make, train (one iteration), test and look, with the commands that the config names."""
    write_masks(work / "data/cells", size=(64, 64), count=3)
    run(sys.executable, ROOT / "tools/make_config.py", "data/cells", "cells.py", "--name", "cell")
    named = [line[2:].split() for line in Path("cells.py").read_text().splitlines() if line.startswith("# python ")]
    assert [command[1] for command in named] == ["tools/train.py", "tools/test.py"]
    short = ["--cfg-options", "train_cfg.max_epochs=1", "train_dataloader.dataset.indices=4"]
    for (_, tool, *arguments), options in zip(named, (short, []), strict=True):
        arguments = [argument.replace("epoch_60.pth", "epoch_1.pth") for argument in arguments]
        run(sys.executable, ROOT / tool, *arguments, *options)
    drawn = sorted(Path("work_dirs/cells").glob("*/pictures/*.png"))
    assert [path.stem for path in drawn] == ["cell3", "cell5"]
