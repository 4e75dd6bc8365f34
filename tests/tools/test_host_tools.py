"""The hosts' own tools that docs/tools.md points at work with our configs and logs, as ``mim run`` starts them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from mmengine.config import Config

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
HOSTS = {  # package, one of our configs, what the host logs after an epoch
    "onedl-mmdetection": ("mask-rcnn_sema-pico_fpn_shapes.py", "coco/bbox_mAP", "bbox_mAP"),
    "onedl-mmpretrain": ("sema-pico_digits.py", "accuracy/top1", "accuracy/top1"),
}


def mim_run(cwd: Path, *arguments) -> str:
    """``mim run`` with these arguments in ``cwd``; returns what it printed."""
    environment = dict(
        os.environ, PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", MPLBACKEND="Agg"
    )
    command = ["mim", "run", *map(str, arguments)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("package", HOSTS)
def test_print_config(package, tmp_path):
    config = ROOT / "configs" / HOSTS[package][0]
    printed = mim_run(tmp_path, package, "print_config", config)
    text = printed.split("\nConfig")[-1].split(":\n", 1)[-1].replace("The script finished successfully.", "")
    (tmp_path / "printed.py").write_text(text[text.index("auto_scale_lr") :])
    whole, printed = Config.fromfile(str(config)), Config.fromfile(str(tmp_path / "printed.py"))
    assert printed.model.backbone == whole.model.backbone and printed.train_dataloader == whole.train_dataloader


@pytest.mark.long
@pytest.mark.parametrize("package", HOSTS)
def test_analyze_logs(package, tmp_path):
    _, logged, key = HOSTS[package]
    lines = []
    for epoch in (1, 2):
        for step in range(1, 5):
            iteration = 4 * (epoch - 1) + step
            lines.append(dict(lr=0.1, loss=4.0 / iteration, time=0.5, epoch=epoch, iter=iteration, step=iteration))
        lines.append({logged: 0.3 * epoch, "time": 0.1, "step": epoch})
    (tmp_path / "scalars.json").write_text("\n".join(map(json.dumps, lines)) + "\n")
    printed = mim_run(tmp_path, package, "analyze_logs", "cal_train_time", "scalars.json")
    assert "average iter time: 0.5000 s/iter" in printed
    for name in ("loss", key):
        plot = ["plot_curve", "scalars.json", "--keys", name, "--style", "default", "--out", "curve.png"]
        mim_run(tmp_path, package, "analyze_logs", *plot)
        assert cv2.imread(str(tmp_path / "curve.png")).std() > 10
        (tmp_path / "curve.png").unlink()
