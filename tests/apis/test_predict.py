"""python -m mmsema and mmsema.apis: what they find is what the hosts' inferencers find, and nothing gets lost."""

import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from old_torch import needs_mmseg

from mmsema.__main__ import main
from mmsema.apis import Detector, load_model, predict, read_config
from mmsema.apis.predict import list_inputs
from mmsema.checkpoint import CheckpointError
from mmsema.datasets.shapes import CLASSES, make_shapes
from mmsema.engine import UsageError

ROOT = Path(__file__).resolve().parents[2]
DETECTOR = ROOT / "configs/mask-rcnn_sema-pico_fpn_shapes.py"
CLASSIFIER = ROOT / "configs/sema-pico_digits.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """data/shapes with four pictures, and a detector and a classifier with random weights, as training saves them."""
    folder = tmp_path_factory.mktemp("inference")
    make_shapes(folder / "data/shapes", dict(val=4))
    torch.manual_seed(0)
    for name, config, classes in (("detector", DETECTOR, CLASSES), ("classifier", CLASSIFIER, tuple("0123456789"))):
        model = load_model(config, device="cpu").model
        for layer in model.modules():  # so that scores differ from object to object
            if isinstance(layer, torch.nn.Linear):
                torch.nn.init.normal_(layer.weight, std=0.1)
        meta = dict(dataset_meta=dict(classes=tuple(classes)))
        torch.save(dict(state_dict=model.state_dict(), meta=meta), folder / f"{name}.pth")
    return folder


@pytest.fixture
def work(folder, tmp_path, monkeypatch) -> Path:
    """The current folder, with data and checkpoints of :func:`folder`."""
    for path in folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_folder_gives_coco_results_and_pictures_in_spite_of_a_broken_one(work):
    from mmdet.apis import DetInferencer
    from pycocotools import mask as rle
    from pycocotools.coco import COCO

    pictures = work / "pictures"
    pictures.mkdir()
    names = [f"{i:06d}.jpg" for i in (1, 2, 3)]  # not all of the data set: numbers in this folder would be other ones
    for name in names[1:]:
        (pictures / name).symlink_to(work / "data/shapes/val" / name)
    (pictures / names[0]).write_text("no picture")
    found = predict(DETECTOR, "detector.pth", [pictures], "out", device="cpu")
    assert len(found.problems) == 1 and names[0] in found.problems[0]
    assert sorted(path.name for path in Path("out").iterdir()) == [*names[1:], "results.json"]
    truth = COCO("data/shapes/annotations/instances_val.json")
    results = truth.loadRes("out/results.json")
    assert {truth.imgs[one["image_id"]]["file_name"] for one in found.results} == set(names[1:])
    assert {one["category_id"] for one in found.results} <= set(truth.getCatIds())
    expected = DetInferencer(str(DETECTOR), "detector.pth", device="cpu", show_progress=False)(
        str(pictures / names[1])
    )["predictions"][0]
    ours = [one for one in found.results if one["file_name"] == names[1]]
    assert len(ours) == len(expected["scores"]) > 5
    for one, label, score, box in zip(ours, expected["labels"], expected["scores"], expected["bboxes"], strict=True):
        assert one["score"] == pytest.approx(score) and truth.cats[one["category_id"]]["name"] == CLASSES[label]
        left, top, width, height = one["bbox"]
        assert [left, top, left + width, top + height] == pytest.approx(box)
        x, y, w, h = rle.toBbox(one["segmentation"])
        assert not w or (x >= left - 1 and y >= top - 1 and x + w <= left + width + 1 and y + h <= top + height + 1)
    assert len(results.anns) == len(found.results)
    drawn, original = cv2.imread(f"out/{names[1]}"), cv2.imread(str(pictures / names[1]))
    factor = drawn.shape[0] // original.shape[0]
    assert factor > 3 and drawn.shape == (factor * original.shape[0], factor * original.shape[1], 3)
    enlarged = cv2.resize(original, drawn.shape[1::-1], interpolation=cv2.INTER_CUBIC)
    assert np.abs(drawn.astype(int) - enlarged).max() > 100


def test_numbers_of_images_and_categories_without_the_annotation_file():
    from mmdet.datasets import CocoDataset

    ids = Detector.category_ids(SimpleNamespace(classes=("cat", "dog")), {})
    assert ids == [1, 2]
    annotations = dict(categories=[dict(id=7, name="dog"), dict(id=3, name="cat")])
    assert Detector.category_ids(SimpleNamespace(classes=("cat", "dog")), annotations) == [3, 7]
    coco = Detector.category_ids(SimpleNamespace(classes=CocoDataset.METAINFO["classes"]), {})
    assert len(coco) == 80 and (coco[0], coco[11], coco[79]) == (1, 13, 90)  # person, stop sign, toothbrush


def test_pictures_outside_the_data_set_are_numbered_from_1(work):
    red = np.full((64, 64, 3), (0, 0, 200), np.uint8)
    cv2.imwrite("a.png", red)
    cv2.imwrite("b.bmp", np.zeros((64, 80), np.uint8))
    found = predict(DETECTOR, "detector.pth", ["a.png", "b.bmp"], "out", score_thr=1.1, device="cpu")
    assert {(one["file_name"], one["image_id"]) for one in found.results} == {("a.png", 1), ("b.bmp", 2)}
    assert cv2.imread("out/b.bmp").shape == (7 * 64, 7 * 80, 3)  # enlarged to be read
    assert (cv2.imread("out/a.png") == red[0, 0]).all()  # nothing is so sure that it would be drawn


def test_names_that_the_data_set_has_twice_number_nothing(work, monkeypatch):
    """One folder for each sequence: which of the two is meant, a name cannot tell."""
    images = [dict(file_name=f"{folder}/a.png", id=number) for number, folder in enumerate("xyz", 7)]
    images.append(dict(file_name="x/c.png", id=20))
    monkeypatch.setattr(Detector, "annotations", lambda self: dict(images=images, categories=[]))
    for name in ("a.png", "c.png"):
        cv2.imwrite(name, np.zeros((64, 80), np.uint8))
    for name, number in (("a.png", 1), ("c.png", 20)):
        found = predict(DETECTOR, "detector.pth", [name], "out", device="cpu")
        assert {one["image_id"] for one in found.results} == {number}


@pytest.mark.parametrize("content", ["version https://git-lfs.github.com/spec/v1", "", "[]", "lvis"])
def test_an_annotation_file_that_says_nothing_is_no_obstacle(content, work):
    """It gives numbers to pictures and classes, and is not needed for anything else."""
    cv2.imwrite("a.png", np.zeros((64, 80), np.uint8))
    lvis = dict(images=[dict(id=7, coco_url="http://images/a.png")], categories=[dict(id=9)])
    cfg = Config.fromfile(DETECTOR)
    cfg.test_dataloader.dataset.update(data_root="", ann_file="other.json")
    Path("other.json").write_text(json.dumps(lvis) if content == "lvis" else content)
    found = predict(cfg, "detector.pth", ["a.png"], "out", device="cpu")
    assert {one["image_id"] for one in found.results} == {1}
    assert {one["category_id"] for one in found.results} <= {1, 2, 3, 4}


def test_many_inputs_are_listed_at_once(work):
    """One by one against all the others, 20,000 took 10 seconds."""
    Path("many").mkdir()
    for i in range(20_000):
        os.mknod(f"many/{i}.jpg")
    start = time.process_time()
    assert len(list_inputs(["many"])[0]) == 20_000
    assert time.process_time() - start < 5


def test_a_format_that_cannot_be_written_becomes_png(work):
    cv2.imwrite("a.jpg", np.zeros((64, 80), np.uint8))
    Path("a.jpg").rename("a.jfif")
    found = predict(DETECTOR, "detector.pth", ["a.jfif"], "out", device="cpu")
    assert {one["file_name"] for one in found.results} == {"a.jfif"}
    assert sorted(path.name for path in Path("out").iterdir()) == ["a.jfif.png", "results.json"]


def test_what_fails_at_one_picture_costs_that_one_alone(work):
    for name, size in (("a.png", (64, 80)), ("b.png", (64, 80)), ("thin.png", (1, 700))):
        cv2.imwrite(name, np.zeros(size, np.uint8))
    Path("out/a.png").mkdir(parents=True)
    found = predict(DETECTOR, "detector.pth", ["a.png", "thin.png", "b.png"], "out", device="cpu")
    unwritten, thin = found.problems
    assert unwritten.startswith("a.png: ") and "Is a directory" in unwritten
    assert thin.startswith("thin.png: OpenCV") and "\n" not in thin
    assert {one["file_name"] for one in json.loads(found.file.read_text())} == {"a.png", "b.png"}
    Path("other/results.json").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"^out_dir other: other/results.json is a folder$"):
        predict(DETECTOR, "detector.pth", "b.png", "other", device="cpu")


@pytest.mark.slow
def test_labels_are_drawn_as_asked(work, monkeypatch):
    drawn = {}
    for labels in ("auto", "all", "none"):
        command = ["mmsema", str(DETECTOR), "detector.pth", "data/shapes/val/000000.jpg", "--device", "cpu"]
        monkeypatch.setattr(sys, "argv", [*command, "--out-dir", labels, "--labels", labels, "--score-thr", "0"])
        assert main() == 0
        drawn[labels] = cv2.imread(f"{labels}/000000.jpg").astype(int)
    changed = {labels: (np.abs(picture - drawn["none"]).max(-1) > 40).mean() for labels, picture in drawn.items()}
    assert 0 < changed["auto"] < changed["all"]


def test_a_video_comes_back_with_all_its_frames(work):
    writer = cv2.VideoWriter("clip.avi", cv2.VideoWriter_fourcc(*"MJPG"), 5, (96, 64))
    for i in range(3):
        frame = cv2.imread(f"data/shapes/val/{i:06d}.jpg")
        writer.write(cv2.resize(frame, (96, 64)))
    writer.release()
    found = predict(DETECTOR, "detector.pth", ["clip.avi"], "out", device="cpu")
    assert not found.problems
    assert {one["image_id"] for one in found.results} == {1, 2, 3}
    video = cv2.VideoCapture("out/clip.mp4")
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 3 and video.get(cv2.CAP_PROP_FPS) == 5
    assert video.read()[1].shape == (6 * 64, 6 * 96, 3)
    whole = Path("clip.avi").read_bytes()
    Path("cut.avi").write_bytes(whole[: len(whole) * 2 // 3])
    cut = predict(DETECTOR, "detector.pth", "cut.avi", "out", device="cpu")
    assert len(cut.problems) == 1 and cut.problems[0].endswith("of 3 frames cannot be read") and cut.results


def test_a_video_that_is_not_written_or_stops_is_told(work, monkeypatch):
    writer = cv2.VideoWriter("clip.avi", cv2.VideoWriter_fourcc(*"MJPG"), 5, (96, 64))
    for _ in range(3):
        writer.write(np.zeros((64, 96, 3), np.uint8))
    writer.release()
    Path("out/clip.mp4").mkdir(parents=True)
    with pytest.raises(UsageError, match="video out/clip.mp4 cannot be written, with 5 frames of 576 x 384 a second"):
        predict(DETECTOR, "detector.pth", "clip.avi", "out", device="cpu")
    name = os.fsdecode(b"stra\xdfe.avi")
    Path("clip.avi").rename(name)
    with pytest.raises(UsageError, match="has a name that is not UTF-8"):
        predict(DETECTOR, "detector.pth", name, "other", device="cpu")
    Path(name).rename("clip.avi")
    whole, frames = Detector.predict, []

    def fails_at_the_last(self, image, *arguments):
        frames.append(image)
        if len(frames) == 3:
            raise RuntimeError("out of\nmemory")
        return whole(self, image, *arguments)

    monkeypatch.setattr(Detector, "predict", fails_at_the_last)
    found = predict(DETECTOR, "detector.pth", "clip.avi", "other", device="cpu")
    assert found.problems == ["clip.avi: frame 3 of 3, the last one looked at: out of memory"]
    assert {one["image_id"] for one in json.loads(found.file.read_text())} == {1, 2}


def test_a_classifier_lists_the_best_classes(work):
    from mmpretrain import ImageClassificationInferencer

    picture = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    cv2.imwrite("digit.png", picture)
    found = predict("sema-pico_digits", "classifier.pth", "digit.png", "out", top_k=3, device="cpu")
    (expected,) = ImageClassificationInferencer(str(CLASSIFIER), "classifier.pth", device="cpu")("digit.png")
    (one,) = json.loads(Path("out/results.json").read_text())
    assert one == found.results[0] and one["file_name"] == "digit.png"
    best = np.argsort(-expected["pred_scores"])[:3]
    assert [c["label"] for c in one["classes"]] == best.tolist()
    assert [c["score"] for c in one["classes"]] == pytest.approx(expected["pred_scores"][best].tolist())
    assert one["classes"][0]["category"] == expected["pred_class"]


@pytest.mark.parametrize(
    "config, inputs, words",
    [
        ("configs/nowhere.py", ["a.png"], ["configs/nowhere.py is not a file"]),
        pytest.param(
            "upernet_sema-t_8xb2-160k_ade20k-512x512",
            ["a.png"],
            ["must be one of mmdet, mmpretrain, got mmseg"],
            marks=needs_mmseg,
        ),
        ("other.py", ["a.png"], ["other.py: the config has no model"]),
        ("sema-pico_digit", ["a.png"], ["sema-pico_digit is neither", "did you mean sema-pico_digits"]),
        ("sema-pico_digits", ["nowhere.png"], ["nowhere.png is neither a file nor a folder"]),
        ("sema-pico_digits", ["empty"], ["folder empty has no pictures", ".jpg"]),
        ("sema-pico_digits", ["a.png", "clip.mp4"], ["a video must be the only input", "clip.mp4"]),
        ("sema-pico_digits", ["a.png", "more/a.png"], ["different file names", "a.png twice"]),
        ("sema-pico_digits", ["out/b.png"], ["out_dir out holds the inputs"]),
        ("sema-pico_digits", ["clip.mp4"], ["video clip.mp4 cannot be opened"]),
        ("sema-pico_digits", ["a.png"], ["a.png is not a picture that can be read"]),
    ],
)
def test_errors_are_one_line(config, inputs, words, work, monkeypatch, capsys):
    for path in ("a.png", "more/a.png", "out/b.png", "clip.mp4"):
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).write_text("nothing that can be read")
    Path("empty").mkdir()
    Path("other.py").write_text("default_scope = 'mmseg'")
    monkeypatch.setattr(sys, "argv", ["mmsema", config, "classifier.pth", *inputs, "--out-dir", "out"])
    assert main() == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    for word in words:
        assert word in line


def test_a_checkpoint_of_another_model_is_refused(work):
    with pytest.raises(CheckpointError, match=r"detector\.pth has \d+ of the model's 187 tensors"):
        predict("sema-pico_digits", "detector.pth", ["data/shapes/val"], "out", device="cpu")


def test_no_input_is_an_error():
    with pytest.raises(UsageError, match="inputs must name at least one"):
        predict("sema-pico_digits", "classifier.pth", [])


def test_exit_code_1_says_that_something_was_left_out(work, monkeypatch, capsys):
    cv2.imwrite("good.png", np.zeros((8, 8, 3), np.uint8))
    Path("bad.png").write_bytes(b"")
    monkeypatch.setattr(sys, "argv", ["mmsema", str(CLASSIFIER), "classifier.pth", "bad.png", "good.png"])
    assert main() == 1
    printed = capsys.readouterr()
    assert "warning: bad.png is not a picture" in printed.err and "1 results in outputs/results.json" in printed.out


def test_every_shipped_name_is_a_config():
    assert isinstance(read_config("mask-rcnn_sema-t_fpn_1x_coco"), Config)
    with pytest.raises(UsageError, match="the names are .*sema-t_8xb128_in1k"):
        read_config("???")
