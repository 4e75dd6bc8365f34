"""What a user gets: the built wheel and `mim install .`, each in an environment of its own, away from the checkout."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BUILD = """
from mmengine.registry import MODELS, init_default_scope
import mmsema, mmsema_kernels
init_default_scope('mmdet')
model = MODELS.build(dict(type='MaskRCNN', backbone=dict(type='mmsema.SEMA', arch='pico'), neck=None,
                          rpn_head=None, roi_head=None, train_cfg=None, test_cfg=None))
print(type(model.backbone).__module__, mmsema.__file__, mmsema_kernels.__file__)
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """The tracked files, as a fresh clone has them."""
    folder = tmp_path_factory.mktemp("source")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.fixture
def environment(tmp_path) -> Path:
    """A new environment that has this one's packages but not this checkout; returns its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"], capture_output=True, text=True, check=True
    ).stdout.strip()
    Path(site, "hosts.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    missing = subprocess.run([python, "-c", "import mmsema"], capture_output=True, text=True, cwd=tmp_path)
    assert "No module named 'mmsema'" in missing.stderr  # paths in a .pth file bring no editable installs along
    return python


def check(python: Path, cwd: Path, from_checkout: bool = False) -> None:
    done = subprocess.run([python, "-W", "ignore", "-c", BUILD], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr
    module, *files = done.stdout.split()[-3:]
    assert module == "mmsema.models.sema"
    assert from_checkout or all(str(python.parents[1]) in file for file in files)


def test_wheel_works_from_any_folder(source, environment, tmp_path):
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path, source]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("mmsema-0.1.0-*.whl")
    subprocess.run([environment, "-m", "pip", "install", "-q", "--no-deps", wheel], check=True)
    for cwd in (tmp_path, source / "mmsema"):
        check(environment, cwd)
    check(environment, source, from_checkout=True)  # Python puts the folder it runs in first
    installed = Path(json.loads(subprocess.run(
        [environment, "-c", "import json, mmsema; print(json.dumps(mmsema.__file__))"],
        capture_output=True, text=True, check=True, cwd=tmp_path).stdout)).parent  # fmt: skip
    for carried in ("configs/mask-rcnn_sema-t_fpn_1x_coco.py", "tools/train.py", "tools/dist_train.sh", "model-index.yml"):
        assert (installed / ".mim" / carried).is_file()
    top = {path.name.split("-")[0] for path in installed.parent.iterdir()}
    assert not top & {"kernels", "tools", "tests", "docs", "configs"}  # names that belong to others


def test_mim_install(source, environment, tmp_path):
    mim = "from mim.cli import cli; cli()"
    command = [environment, "-W", "ignore", "-c", mim, "install", "--no-deps", "--no-build-isolation", "."]
    path = f"{environment.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, env=dict(os.environ, PATH=path))
    assert done.returncode == 0, done.stdout + done.stderr
    check(environment, tmp_path)


def test_without_mmengine_the_error_says_both_install_lines(tmp_path):
    code = "import sys; sys.modules['mmengine'] = None; import mmsema"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert 'pip install "mmsema[onedl]"' in done.stderr and 'pip install "mmsema[openmmlab]"' in done.stderr
