"""``python -m mmsema.collect_env`` in environments that are broken in the ways users meet."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def collect_env(broken: Path, *files) -> subprocess.CompletedProcess:
    """Run the command where ``files`` (name, text) shadow what is installed."""
    for name, text in files:
        (broken / name).parent.mkdir(parents=True, exist_ok=True)
        (broken / name).write_text(text)
    command = [sys.executable, "-m", "mmsema.collect_env"]
    environment = dict(os.environ, PYTHONPATH=str(broken))
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=broken)


def distribution(name: str, version: str = "1.0") -> tuple:
    return (
        f"{name.replace('-', '_')}-{version}.dist-info/METADATA",
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
    )


@pytest.mark.slow
def test_a_sound_environment(tmp_path):
    done = collect_env(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "mmsema" in done.stdout and done.stdout.rstrip().endswith("No problem found.")


@pytest.mark.slow
@pytest.mark.parametrize(
    "files, words",
    [
        pytest.param(
            [distribution("mmengine", "0.10.7"), distribution("onedl-mmengine", "0.10.12")],
            ("both stacks are installed", "uninstall onedl-mmengine", "mmengine"),
            id="both stacks",
        ),
        pytest.param([distribution("mmcv-lite")], ("mmcv-lite takes mmcv's place",), id="mmcv-lite"),
        pytest.param(
            [("mmcv/__init__.py", "__version__ = '2.3.6'"), ("mmcv/ops/__init__.py", "import mmcv._ext")],
            ("mmcv has no operators", "MMCV_WITH_OPS=1", "No module named 'mmcv._ext'"),
            id="mmcv without operators",
        ),
        pytest.param(
            [("torchvision/__init__.py", "raise RuntimeError('operator torchvision::nms does not exist')")],
            ("torch and torchvision do not belong together",),
            id="torchvision of another torch",
        ),
        pytest.param(
            [("mmengine/__init__.py", "raise ImportError('broken')")],
            ("mmengine does not import: ImportError: broken",),
            id="mmengine does not import",
        ),
        pytest.param(
            [("mmdet/__init__.py", "assert False, 'MMCV==9 is used but incompatible'")],
            ("mmdet does not import: AssertionError: MMCV==9 is used but incompatible",),
            id="mmdet refuses mmcv",
        ),
    ],
)
def test_the_fault_is_named(tmp_path, files, words):
    done = collect_env(tmp_path, *files)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert done.stdout.count("\n- ") == 1, done.stdout  # one cause, one line
    line = done.stdout.strip().splitlines()[-1]
    assert all(word in line for word in words), line


def test_importing_without_mmengine_names_both_stacks(tmp_path):
    (tmp_path / "mmengine.py").write_text("raise ModuleNotFoundError(\"No module named 'mmengine'\")")
    command = [sys.executable, "-c", "import mmsema"]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ, PYTHONPATH=str(tmp_path)))
    assert done.returncode == 1
    assert all(f".[{stack}]" in done.stderr for stack in ("onedl", "openmmlab")), done.stderr
    assert "python -m mmsema.collect_env" in done.stderr
