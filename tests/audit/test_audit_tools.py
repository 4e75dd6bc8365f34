"""The audit as a user meets it: the tool, and before training."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from faults import FAULTS

ROOT = Path(__file__).resolve().parents[2]
CONFIG = f"""
_base_ = "{ROOT}/configs/mask-rcnn_sema-pico_fpn_shapes.py"
data_root = "{{root}}/"
train_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(
    data_root=data_root, ann_file="train.json", data_prefix=dict(img="images/"),
    metainfo=dict(classes=("circle", "square", "star"))))
val_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(
    data_root=data_root, ann_file="train.json", data_prefix=dict(img="images/"),
    metainfo=dict(classes=("circle", "square", "star"))))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + "train.json")
test_evaluator = val_evaluator
model = dict(roi_head=dict(bbox_head=dict(num_classes=3), mask_head=dict(num_classes=3)))
train_cfg = dict(max_epochs=1)
"""


def run(tool: str, root: Path, *options: str) -> subprocess.CompletedProcess:
    (root / "config.py").write_text(CONFIG.format(root=root))
    command = [sys.executable, str(ROOT / "tools" / tool), "config.py", *options]
    environment = dict(os.environ, XDG_CACHE_HOME=str(root / "cache"))
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_training_stops_before_the_first_iteration(tmp_path):
    fault = FAULTS["class_misspelt_in_the_file"]
    fault.plant(tmp_path)
    done = run("train.py", tmp_path)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2, done.stderr
    line = fault.line.replace("{root}", str(tmp_path))
    assert errors == [f"error: {line}"] and "Traceback" not in done.stderr


@pytest.mark.slow
def test_training_names_what_is_dropped_and_goes_on(tmp_path):
    fault = FAULTS["boxes_negative_and_zero"]
    fault.plant(tmp_path)
    done = run("train.py", tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"drop: {fault.line.replace('{root}', str(tmp_path))}" in done.stdout
    assert json.loads(next((tmp_path / "cache").glob("mmsema/audit/*-quick.json")).read_text())
