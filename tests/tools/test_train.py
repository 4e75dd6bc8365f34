"""tools/train.py, test.py and their distributed forms, as a user types them."""

import json
import os
import pickle
import re
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest
import torch
from commands import free_port, run

ROOT = Path(__file__).resolve().parents[2]
DETECTOR = ROOT / "configs/mask-rcnn_sema-pico_fpn_shapes.py"
COCO_DETECTOR = ROOT / "configs/mask-rcnn_sema-t_fpn_1x_coco.py"
CLASSIFIER = ROOT / "configs/sema-pico_digits.py"


def tool(name: str, *arguments, cwd: Path, code: int = 0) -> subprocess.CompletedProcess:
    return run(sys.executable, ROOT / "tools" / name, *arguments, cwd=cwd, code=code)


def launch(script: str, *arguments, cwd: Path) -> str:
    """Run one of the shell scripts; returns what it printed."""
    port = str(free_port())
    environment = dict(os.environ, PYTHON=sys.executable, PORT=port, OMP_NUM_THREADS="1")
    environment.pop("TRITON_INTERPRET", None)
    command = list(map(str, (ROOT / "tools" / script, *arguments)))
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def scalars(work_dir: Path) -> list:
    files = sorted(work_dir.glob("*/vis_data/scalars.json"))
    return [json.loads(line) for file in files for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Path:
    """A folder with data/shapes: 8 pictures to train on, 4 to validate."""
    folder = tmp_path_factory.mktemp("shapes")
    tool("make_shapes.py", "data/shapes", "--train", 8, "--val", 4, cwd=folder)
    return folder


@pytest.fixture(scope="module")
def trained(shapes) -> Path:
    """The work folder of a detector after one epoch of two iterations."""
    done = tool("train.py", DETECTOR, "--resume", "auto", "--cfg-options", "train_cfg.max_epochs=1", cwd=shapes)
    ended, work_dir = time.time(), shapes / "work_dirs" / DETECTOR.stem
    assert f"Nothing to resume in work_dirs/{DETECTOR.stem}: training starts from scratch" in done.stdout
    (log,) = work_dir.glob("*/vis_data/scalars.json")
    assert ended - log.stat().st_mtime < 15  # its workers hold nobody up
    return work_dir


@pytest.mark.slow
def test_detector_trains_and_is_evaluated(trained):
    lines = scalars(trained)
    assert {"coco/bbox_mAP", "coco/segm_mAP"} <= set(lines[-1])
    assert (trained / "epoch_1.pth").exists()


@pytest.mark.slow
def test_resume_goes_on_where_training_stopped(trained, shapes, tmp_path):
    options = ["--work-dir", tmp_path, "--cfg-options", "train_cfg.max_epochs=2", "default_hooks.logger.interval=1"]
    done = tool("train.py", DETECTOR, "--resume", trained / "epoch_1.pth", *options, cwd=shapes)
    assert "resumed epoch: 1, iter: 2" in done.stdout + done.stderr
    assert [line["step"] for line in scalars(tmp_path) if "loss" in line] == [3, 4]


@pytest.mark.slow
def test_detector_is_tested_dumped_and_drawn(trained, shapes, tmp_path):
    dump, pictures = tmp_path / "out.pkl", tmp_path / "pictures"
    work_dir = ["--work-dir", tmp_path / "test", "--out", dump, "--show-dir", pictures, "--labels", "none"]
    done = tool("test.py", DETECTOR, trained / "epoch_1.pth", *work_dir, cwd=shapes)
    assert "coco/segm_mAP" in done.stdout + done.stderr
    assert len(pickle.loads(dump.read_bytes())) == 4
    drawn = [cv2.imread(str(path)) for path in tmp_path.rglob("*.jpg")]
    assert len(drawn) == 4 and all(max(picture.shape) >= 512 for picture in drawn)  # enlarged: by our visualizer


@pytest.mark.slow
def test_inference_takes_what_training_wrote(trained, shapes, tmp_path):
    """Ours, and mmdet's own with our config."""
    from mmdet.apis import DetInferencer

    from mmsema.datasets.shapes import CLASSES

    checkpoint, pictures = trained / "epoch_1.pth", shapes / "data/shapes/val"
    options = ["--out-dir", tmp_path, "--device", "cpu"]
    done = run(sys.executable, "-m", "mmsema", DETECTOR, checkpoint, pictures, *options, cwd=shapes)
    assert "warn" not in (done.stdout + done.stderr).lower()
    assert len(list(tmp_path.glob("*.jpg"))) == 4
    ours = json.loads((tmp_path / "results.json").read_text())
    inferencer = DetInferencer(str(DETECTOR), str(checkpoint), device="cpu")
    assert inferencer.model.dataset_meta["classes"] == CLASSES
    theirs = inferencer([str(path) for path in sorted(pictures.iterdir())])["predictions"]
    scores = [score for prediction in theirs for score in prediction["scores"]]
    assert [one["score"] for one in ours] == pytest.approx(scores)


@pytest.mark.slow
def test_coco_config_trains_on_a_small_set_in_coco_layout(tmp_path):
    """All 80 categories, the config as it is but for the picture size."""
    import cv2
    import numpy as np
    from mmdet.datasets import CocoDataset

    from mmsema.datasets.shapes import draw_picture

    names = CocoDataset.METAINFO["classes"]
    ids = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]  # COCO's numbers have gaps
    for split, count in (("train2017", 4), ("val2017", 2)):
        folder = tmp_path / "data/coco" / split
        folder.mkdir(parents=True)
        images, annotations = [], []
        for i in range(count):
            picture, drawn = draw_picture(np.random.default_rng([7, count, i]))
            cv2.imwrite(str(folder / f"{i:012d}.jpg"), picture)
            images.append(dict(id=i, file_name=f"{i:012d}.jpg", height=picture.shape[0], width=picture.shape[1]))
            for annotation in drawn:
                number = len(annotations) + 1
                annotation["category_id"] = ids[number * 11 % 80]
                annotations.append(dict(id=number, image_id=i, **annotation))
        categories = [dict(id=i, name=name) for i, name in zip(ids, names, strict=True)]
        target = tmp_path / f"data/coco/annotations/instances_{split}.json"
        target.parent.mkdir(exist_ok=True)
        target.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    small = [
        f"{loader}.dataset.pipeline.{i}.scale=(160,128)"
        for loader, i in (("train_dataloader", 2), ("val_dataloader", 1))
    ]
    small.append("model.test_cfg.rcnn.score_thr=0.0")  # an untrained model is sure of nothing
    options = [*small, "train_cfg.max_epochs=1", "default_hooks.logger.interval=1", "auto_scale_lr.base_batch_size=16"]
    tool("train.py", COCO_DETECTOR, "--auto-scale-lr", "--cfg-options", *options, cwd=tmp_path)
    lines = scalars(tmp_path / "work_dirs" / COCO_DETECTOR.stem)
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 2 and all(0 < loss < 100 for loss in losses)
    assert lines[0]["base_lr"] < 1e-4 * 2 / 16  # scaled to a batch of 2, in warm-up
    assert "coco/bbox_mAP" in lines[-1]


@pytest.mark.long
def test_digits_reach_95_percent(tmp_path):
    """Real handwritten digits that were held out."""
    tool("train.py", CLASSIFIER, cwd=tmp_path)
    work_dir = tmp_path / "work_dirs" / CLASSIFIER.stem
    assert scalars(work_dir)[-1]["accuracy/top1"] >= 95
    done = tool("test.py", CLASSIFIER, work_dir / "epoch_20.pth", "--out", tmp_path / "out.pkl", cwd=tmp_path)
    assert float(re.findall(r"accuracy/top1: ([\d.]+)", done.stdout + done.stderr)[-1]) >= 95
    assert len(pickle.loads((tmp_path / "out.pkl").read_bytes())) == 360
    names_digits_in_pictures(tmp_path, work_dir / "epoch_20.pth")


def names_digits_in_pictures(folder: Path, checkpoint: Path) -> None:
    """Held-out digits as picture files, through python -m mmsema and mmpretrain's own inferencer."""
    import cv2
    from mmengine.registry import init_default_scope
    from mmpretrain import ImageClassificationInferencer

    from mmsema.datasets import Digits

    (folder / "pictures").mkdir()
    truth = {}
    for one in Digits("test", pipeline=[]).load_data_list()[:20]:
        truth[f"{one['digit']:04d}.png"] = one["gt_label"]
        cv2.imwrite(str(folder / f"pictures/{one['digit']:04d}.png"), one["img"])
    run(sys.executable, "-m", "mmsema", CLASSIFIER.stem, checkpoint, "pictures", "--top-k", 1, cwd=folder)
    found = json.loads((folder / "outputs/results.json").read_text())
    ours = {one["file_name"]: one["classes"][0]["label"] for one in found}
    init_default_scope("mmpretrain")  # another test may have been mmdet's
    inferencer = ImageClassificationInferencer(str(CLASSIFIER), str(checkpoint), device="cpu")
    theirs = {name: inferencer(str(folder / "pictures" / name))[0]["pred_label"] for name in truth}
    assert ours == theirs and sum(ours[name] == truth[name] for name in truth) >= 19


@pytest.mark.slow
def test_distributed_training_and_testing_on_the_cpu(tmp_path):
    options = [
        "--cfg-options",
        "train_cfg.max_epochs=1",
        "train_cfg.val_interval=1",
        "default_hooks.checkpoint.interval=1",
        "train_dataloader.batch_size=4",  # the processes' BatchNorm statistics differ clearly
        "train_dataloader.num_batch_per_epoch=40",
    ]
    launch("dist_train.sh", CLASSIFIER, 2, *options, cwd=tmp_path)
    work_dir = tmp_path / "work_dirs" / CLASSIFIER.stem
    trained_on_one = scalars(work_dir)[-1]["accuracy/top1"]
    printed = launch("dist_test.sh", CLASSIFIER, work_dir / "epoch_1.pth", 2, cwd=tmp_path)
    tested = float(re.findall(r"accuracy/top1: ([\d.]+)", printed)[-1])
    assert tested == pytest.approx(trained_on_one, abs=0.01)


def one_line(done: subprocess.CompletedProcess) -> str:
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in done.stderr + done.stdout
    return lines[0]


@pytest.mark.slow
def test_missing_coco_is_explained_in_one_line(tmp_path):
    line = one_line(tool("train.py", COCO_DETECTOR, cwd=tmp_path, code=2))
    for words in (
        "data/coco/annotations/instances_train2017.json is missing",
        "expected in data/coco",
        "cocodataset.org",
        "configs/mask-rcnn_sema-pico_fpn_shapes.py",
    ):
        assert words in line


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments, words",
    [
        ([ROOT / "configs/mask-rcnn_sema-t_fpn_1x_cocoo.py"], ["is not a file", "did you mean", "fpn_1x_coco.py"]),
        ([ROOT / "README.md"], ["config must be a .py file", "README.md"]),
        ([ROOT / "configs/sema-t_8xb128_in1k.py"], ["data/imagenet", "image-net.org", "configs/sema-pico_digits.py"]),
        ([DETECTOR], ["data/shapes", "python tools/make_shapes.py data/shapes"]),
        ([CLASSIFIER, "--resume", "nowhere.pth"], ["--resume nowhere.pth is not a file"]),
        ([CLASSIFIER, "--resume"], ["nothing to resume in work_dirs/sema-pico_digits", "--resume auto"]),
        ([CLASSIFIER, "--cfg-options", "train_cfg.max_epochs"], ["--cfg-options takes KEY=VALUE", "max_epochs"]),
    ],
)
def test_usage_errors_are_one_line(arguments, words, tmp_path):
    line = one_line(tool("train.py", *arguments, cwd=tmp_path, code=2))
    for word in words:
        assert word in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="the refusal is for machines without a CUDA device")
def test_amp_without_a_gpu_is_refused(tmp_path):
    assert "--amp needs a CUDA device" in one_line(tool("train.py", CLASSIFIER, "--amp", cwd=tmp_path, code=2))


def test_missing_checkpoint_is_named(tmp_path):
    done = tool("test.py", CLASSIFIER, "nowhere.pth", cwd=tmp_path, code=2)
    assert "checkpoint nowhere.pth is not a file" in one_line(done)


ANALYSIS = ["get_flops.py", "browse_dataset.py", "visualize.py"]


@pytest.mark.parametrize(
    "name", ["train.py", "test.py", "make_shapes.py", *(f"analysis_tools/{name}" for name in ANALYSIS)]
)
def test_help_answers_without_loading_torch(name, tmp_path):
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(ROOT / "tools" / name), "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "usage:" in done.stdout and " torch" not in done.stderr
