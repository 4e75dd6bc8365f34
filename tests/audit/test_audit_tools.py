"""The audit as a user meets it: the tool, and before training."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import commands
import pytest
from faults import FAULTS
from planting import CLASSES, make_coco

ROOT = Path(__file__).resolve().parents[2]
TOOL = str(ROOT / "tools/analysis_tools/audit_dataset.py")
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


def run(tool: str, root: Path, *options: str, start: tuple = (sys.executable,)) -> subprocess.CompletedProcess:
    (root / "config.py").write_text(CONFIG.format(root=root))
    command = [*start, str(ROOT / "tools" / tool), "config.py", *options]
    if start == (sys.executable,):
        return commands.run(*command, cwd=root, code=None, env=dict(XDG_CACHE_HOME=str(root / "cache")))
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


@pytest.mark.long
def test_two_processes_stop_together(tmp_path):
    fault = FAULTS["picture_missing"]
    fault.plant(tmp_path)
    start = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    done = run("train.py", tmp_path, "--launcher", "pytorch", start=start)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    line = fault.line.replace("{root}", str(tmp_path))
    assert done.returncode and f"error: {line}" in errors
    # the launcher may end the other one before it has said why it ends
    assert set(errors) <= {f"error: {line}", "error: process 0 found the data unfit for use"}


@pytest.mark.parametrize(
    "name, code, words",
    [
        ("polygon_nan", 1, ["stop │ polygon-not-finite │", "annotation 11", "not fit for use: 2 causes to stop"]),
        ("annotation_of_no_image", 0, ["drop │ annotation-of-no-image │", "annotation 15", "fit for use"]),
    ],
)
def test_the_tool(name, code, words, tmp_path, monkeypatch, capsys):
    FAULTS[name].plant(tmp_path)
    (tmp_path / "config.py").write_text(CONFIG.format(root=tmp_path))
    monkeypatch.setattr(sys, "argv", [TOOL, str(tmp_path / "config.py")])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(TOOL, run_name="__main__")
    shown = capsys.readouterr().out
    assert end.value.code == code and all(word in shown for word in words), shown
    assert f"{FAULTS[name].rule}: {FAULTS[name].line.replace('{root}', str(tmp_path))}" in shown


@pytest.mark.parametrize(
    "parts, code, last",
    [
        (["train"], 0, ["data sets not audited: 1, VOCDataset (train)", "fit for use, as far as audited"]),
        (
            ["train", "val"],
            1,
            [
                "data sets not audited: 2, VOCDataset (train), VOCDataset (evaluate)",
                "not known to be fit for use: nothing was audited",
            ],
        ),
    ],
)
def test_the_tool_names_sets_that_it_did_not_look_at(parts, code, last, tmp_path, monkeypatch, capsys):
    make_coco(tmp_path)
    voc = dict(_delete_=True, type="VOCDataset", metainfo=dict(classes=CLASSES))
    lines = [f'{part}_dataloader["dataset"] = {voc}' for part in parts]
    (tmp_path / "config.py").write_text(CONFIG.format(root=tmp_path) + "\n".join(lines))
    monkeypatch.setattr(sys, "argv", [TOOL, str(tmp_path / "config.py")])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(TOOL, run_name="__main__")
    shown = capsys.readouterr()
    assert shown.out.splitlines()[-2:] == last, shown.err
    assert end.value.code == code


def test_the_tool_names_a_config_that_is_not_there(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [TOOL, "such.py"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(TOOL, run_name="__main__")
    assert end.value.code == 2 and capsys.readouterr().err == "error: config such.py is not a file\n"
