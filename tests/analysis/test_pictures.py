"""The demo's pictures, curves and table."""

import importlib.util
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from mmengine.structures import InstanceData

from mmsema.analysis.pictures import draw_curves, draw_detections, read_scalars

ROOT = Path(__file__).resolve().parents[2]
METRICS = {
    f"coco/{kind}_{key}": 0.5 for kind in ("bbox", "segm") for key in ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m")
}


def log(work_dir: Path, run: str, lines) -> None:
    target = work_dir / run / "vis_data/scalars.json"
    target.parent.mkdir(parents=True)
    target.write_text("\n".join(map(json.dumps, lines)) + "\n")


def test_scalars_of_resumed_and_repeated_runs_are_in_order_and_newest(tmp_path):
    log(tmp_path, "1", [dict(loss=3.0, step=10), dict(loss=2.0, step=20), dict(METRICS, step=1)])
    log(tmp_path, "2", [dict(loss=1.5, step=20), dict(loss=1.0, step=30), dict(METRICS, step=2)])
    lines = read_scalars(tmp_path)
    assert [line["loss"] for line in lines if "loss" in line] == [3.0, 1.5, 1.0]
    assert [line["step"] for line in lines if "loss" not in line] == [1, 2]


def test_curves_are_drawn(tmp_path):
    lines = [dict(loss=3.0 / step, loss_mask=1.0 / step, step=step) for step in (10, 20, 30)]
    draw_curves([*lines, dict(METRICS, step=1)], tmp_path / "curves.png")
    picture = cv2.imread(str(tmp_path / "curves.png"))
    assert picture.shape[1] > 1000 and (picture < 128).any()


def test_a_mask_colours_its_own_side_of_the_sheet(tmp_path):
    image = np.full((60, 80, 3), 255, np.uint8)
    mask = np.zeros((1, 60, 80), bool)
    mask[0, 20:40, 30:60] = True
    nothing = InstanceData(labels=np.zeros(0, int), masks=mask[:0])
    circle = InstanceData(labels=np.zeros(1, int), masks=mask, scores=np.array([0.99]))
    classes = ("circle", "square")
    empty, full = tmp_path / "empty.png", tmp_path / "full.png"
    draw_detections([image], [nothing], [nothing], classes, empty, columns=1)
    draw_detections([image], [nothing], [circle], classes, full, columns=1)
    before, after = cv2.imread(str(empty)), cv2.imread(str(full))
    changed = (before != after).any(-1)
    half = changed.shape[1] // 2
    assert changed[:, half:].mean() > 0.05 and not changed[:, :half].any()


def test_the_table_shows_box_and_mask_ap(capsys):
    pytest.importorskip("rich")
    spec = importlib.util.spec_from_file_location("demo", ROOT / "tools/demo.py")
    demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo)
    demo.print_table({**METRICS, "coco/segm_mAP": 0.123})
    printed = capsys.readouterr().out
    assert "0.123" in printed and "0.500" in printed and "mask" in printed
