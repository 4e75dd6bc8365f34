"""The browser draws what the training pipeline gives."""

import json
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from old_torch import needs_mmseg

from mmsema.analysis.browse_dataset import browse
from mmsema.datasets.shapes import make_shapes

ROOT = Path(__file__).resolve().parents[2]
TOOL = str(ROOT / "tools/analysis_tools/browse_dataset.py")


def test_objects_are_drawn_where_augmentation_put_them(tmp_path, monkeypatch):
    """On a picture with one black square in a corner, which the pipeline always flips to the other side."""
    monkeypatch.chdir(tmp_path)
    make_shapes("data/shapes", dict(train=1))
    picture = np.full((128, 128, 3), 255, np.uint8)
    picture[8:40, 8:40] = 0
    picture[100:] = (200, 0, 0)  # blue
    cv2.imwrite("data/shapes/train/000000.jpg", picture)
    picture = cv2.imread("data/shapes/train/000000.jpg")
    annotation = dict(id=1, image_id=1, category_id=2, bbox=[8, 8, 60, 32], area=1024, iscrowd=0)
    annotation["segmentation"] = [[8, 8, 40, 8, 40, 40, 8, 40]]
    path = Path("data/shapes/annotations/instances_train.json")
    content = json.loads(path.read_text())
    content["images"][0].update(height=128, width=128)
    path.write_text(json.dumps(dict(content, annotations=[annotation])))
    Path("flip.py").write_text(f"""
_base_ = "{ROOT}/configs/mask-rcnn_sema-pico_fpn_shapes.py"
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomFlip", prob=1.0, direction="horizontal"),
    dict(type="PackDetInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
""")
    (drawn,) = browse("flip.py", "out", number=5)
    sheet = cv2.imread(str(drawn))
    assert sheet.shape == (512, 512, 3)  # enlarged
    sheet = cv2.resize(sheet, (128, 128), interpolation=cv2.INTER_AREA).astype(int)
    changed = np.abs(sheet - picture[:, ::-1]).max(-1) > 40
    assert changed[:45, 83:].mean() > 0.2 and changed[10:38, 57:63].mean() > 0.2  # the mask; the box, which is wider
    assert changed[50:].mean() < 0.01 and changed[:, :50].mean() < 0.01
    np.testing.assert_allclose(sheet[120, 60], (200, 0, 0), atol=10)


def test_a_classifiers_pictures_are_enlarged_and_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [TOOL, "sema-pico_digits", "--number", "2"])
    runpy.run_path(TOOL, run_name="__main__")
    sheets = [cv2.imread(str(path)) for path in sorted(Path("outputs").iterdir())]
    assert [sheet.shape for sheet in sheets] == [(224, 224, 3)] * 2
    assert (sheets[0] != sheets[1]).any()


SEGMENTOR = "upernet_sema-t_8xb2-160k_ade20k-512x512"


@pytest.mark.parametrize(
    "config, words",
    [
        ("mask-rcnn_sema-pico_fpn_shapes", "error: data/shapes/annotations/instances_train.json is missing"),
        pytest.param(
            SEGMENTOR,
            f"error: default_scope of {SEGMENTOR} must be one of mmdet, mmpretrain, got mmseg",
            marks=needs_mmseg,
        ),
        ("other.py", "error: other.py: the config has no model"),
    ],
)
def test_errors_are_one_line(config, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("other.py").write_text("default_scope = 'mmseg'")
    monkeypatch.setattr(sys, "argv", [TOOL, config])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(TOOL, run_name="__main__")
    assert words in capsys.readouterr().err


def test_data_that_training_refuses_is_not_drawn(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    make_shapes("data/shapes", dict(train=1))
    monkeypatch.setattr(sys, "argv", [TOOL, "mask-rcnn_sema-pico_fpn_shapes"])
    file = Path("data/shapes/annotations/instances_train.json")
    for path, content, words in (
        (Path("data/shapes/train/000000.jpg"), b"", "picture of 0 bytes: image 1, '000000.jpg'"),
        (file, file.read_bytes()[:100], "annotation file is not JSON"),
    ):
        path.write_bytes(content)
        with pytest.raises(SystemExit, match="2"):
            runpy.run_path(TOOL, run_name="__main__")
        assert f"error: {file}: {words}" in capsys.readouterr().err
