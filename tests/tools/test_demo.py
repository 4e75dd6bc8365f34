"""tools/demo.py: what a newcomer sees, with a small data set and one epoch."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CONFIG = f"""
_base_ = "{ROOT}/configs/mask-rcnn_sema-pico_fpn_shapes.py"
train_cfg = dict(max_epochs=1)
default_hooks = dict(logger=dict(interval=1))
"""


@pytest.fixture
def demo(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location("demo", ROOT / "tools/demo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "tools").symlink_to(ROOT / "tools")
    (tmp_path / "config.py").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "CONFIG", "config.py")
    monkeypatch.setattr(sys, "argv", ["demo.py"])
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)  # of the tests; a user's command runs PyTorch on the CPU
    return module


@pytest.mark.slow
def test_the_screen_is_calm_and_the_log_has_the_rest(demo, capfd):
    subprocess.run([sys.executable, "tools/make_shapes.py", "data/shapes", "--train", "8", "--val", "4"], check=True)
    capfd.readouterr()
    demo.main()
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) <= 25 and max(map(len, lines)) <= 100, lines
    text = "\n".join(lines)
    assert "the whole log: work_dirs/demo/demo.log" in text
    assert "epoch 1 of 1: loss " in text and "mask AP" in text
    log = demo.LOG.read_text()
    assert "Epoch(train) [1]" in log and "Config:" in log
    for noise in ("OneDL", "faster_coco_eval", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "Grad strides", "FileClient"):
        assert noise not in log, noise
    assert (demo.WORK_DIR / "predictions.png").exists() and (demo.WORK_DIR / "curves.png").exists()


def test_a_failure_shows_the_end_of_the_log(demo, capfd, monkeypatch):
    demo.WORK_DIR.mkdir(parents=True)
    demo.LOG.write_text(
        "1\n2\nValueError: the cause\nE1124 22:35:25.890000 7 torch/distributed/elastic/api.py:9] report\n"
    )

    def fail():
        demo.run("-c", "raise SystemExit(3)", watch=lambda: None)

    monkeypatch.setattr(demo, "demo", fail)
    with pytest.raises(SystemExit, match="training failed with exit code 3; .*work_dirs/demo/demo.log"):
        demo.main()
    assert capfd.readouterr().out.splitlines() == ["  1", "  2", "  ValueError: the cause"]
