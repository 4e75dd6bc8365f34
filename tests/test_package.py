"""What a user gets: the built wheel and `mim install .`, each in an environment of its own, away from the checkout."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import distributions
from pathlib import Path

import pytest
import torch

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
BUILD = """
from mmengine.registry import MODELS, init_default_scope
import mmsema, mmsema_kernels
init_default_scope('mmdet')
model = MODELS.build(dict(type='MaskRCNN', backbone=dict(type='mmsema.SEMA', arch='pico'), neck=None,
                          rpn_head=None, roi_head=None, train_cfg=None, test_cfg=None))
print(type(model.backbone).__module__, mmsema.__file__, mmsema_kernels.__file__)
"""
not_in_openmim = pytest.mark.skipif(
    any(distribution.name == "openmim" for distribution in distributions()),
    reason="openmim looks for editable installs in site-packages only, where pip no longer puts them",
)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """The tracked files, as a fresh clone has them."""
    folder = tmp_path_factory.mktemp("source")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    return folder


def new_environment(folder: Path) -> Path:
    """A new environment that has this one's packages but not this checkout; returns its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
    python = folder / "venv/bin/python"
    command = [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"]
    site = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    packages = sysconfig.get_paths()["purelib"]
    distutils = Path(packages, "distutils-precedence.pth")  # setuptools': Python has no distutils of its own since 3.12
    Path(site, "hosts.pth").write_text(f"{packages}\n{distutils.read_text() if distutils.exists() else ''}\n")
    missing = subprocess.run([python, "-c", "import mmsema"], capture_output=True, text=True, cwd=folder)
    assert "No module named 'mmsema'" in missing.stderr  # paths in a .pth file bring no editable installs along
    return python


@pytest.fixture
def environment(tmp_path) -> Path:
    return new_environment(tmp_path)


@pytest.fixture(scope="module")
def with_wheel(source, tmp_path_factory) -> Path:
    """The interpreter of an environment with the wheel installed."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", folder, source]
    subprocess.run(command, check=True)
    (wheel,) = folder.glob("mmsema-0.1.0-*.whl")
    python = new_environment(folder)
    subprocess.run([python, "-m", "pip", "install", "-q", "--no-deps", wheel], check=True)
    return python


def mim(python: Path, cwd: Path, *arguments, works: bool = True) -> str:
    """Run ``mim`` with the interpreter's packages in ``cwd``; returns what it printed."""
    command = [python, "-W", "ignore", "-c", "from mim.cli import cli; cli()", *map(str, arguments)]
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    environment = dict(os.environ, PATH=path, NO_COLOR="1", COLUMNS="200")
    environment.pop("TRITON_INTERPRET", None)  # of the tests; a user's command runs PyTorch on the CPU
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, env=environment)
    assert (done.returncode == 0) == works, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


class Call:
    """Unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple:
        return os.mkdir, (str(self.folder),)


def check(python: Path, cwd: Path, from_checkout: bool = False) -> None:
    done = subprocess.run([python, "-W", "ignore", "-c", BUILD], capture_output=True, text=True, cwd=cwd)
    assert done.returncode == 0, done.stderr
    module, *files = done.stdout.split()[-3:]
    assert module == "mmsema.models.sema"
    assert from_checkout or all(str(python.parents[1]) in file for file in files)


def test_wheel_works_from_any_folder(source, with_wheel, tmp_path):
    environment = with_wheel
    for cwd in (tmp_path, source / "mmsema"):
        check(environment, cwd)
    check(environment, source, from_checkout=True)  # Python puts the folder it runs in first
    installed = Path(json.loads(subprocess.run(
        [environment, "-c", "import json, mmsema; print(json.dumps(mmsema.__file__))"],
        capture_output=True, text=True, check=True, cwd=tmp_path).stdout)).parent  # fmt: skip
    for carried in (
        "configs/mask-rcnn_sema-t_fpn_1x_coco.py",
        "tools/train.py",
        "tools/dist_train.sh",
        "model-index.yml",
    ):
        assert (installed / ".mim" / carried).is_file()
    top = {path.name.split("-")[0] for path in installed.parent.iterdir()}
    assert not top & {"kernels", "tools", "tests", "docs", "configs", "results"}  # names that belong to others
    assert not list(installed.rglob("*.pth"))  # weights are in the repository only


def test_mmpretrain_finds_the_wheels_models_by_name(with_wheel, tmp_path):
    code = "import mmsema; from mmpretrain import get_model; print(get_model('sema-pico_digits')._config.filename)"
    done = subprocess.run([with_wheel, "-W", "ignore", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith("site-packages/mmsema/.mim/configs/sema-pico_digits.py")


def test_mim_install(source, environment, tmp_path):
    mim(environment, source, "install", "--no-deps", "--no-build-isolation", ".")
    check(environment, tmp_path)


@pytest.fixture(scope="module")
def editable(source, tmp_path_factory) -> Path:
    """The interpreter of an environment with an editable install."""
    python = new_environment(tmp_path_factory.mktemp("editable"))
    mim(python, source, "install", "--no-deps", "--no-build-isolation", "-e", ".")
    return python


@pytest.mark.parametrize("kind", ["with_wheel", pytest.param("editable", marks=[not_in_openmim, pytest.mark.long])])
def test_mim_search_train_and_test(kind, request, tmp_path):
    """In a folder of its own, with nothing but names."""
    python, config = request.getfixturevalue(kind), "sema-pico_digits.py"
    found = mim(python, tmp_path, "search", "mmsema", "--config", "sema-t_8xb128_in1k")
    assert "sema-t_8xb128_in1k" in found and "24392200" in found
    options = ["--work-dir", "work", "--cfg-options", "train_cfg.max_epochs=1", "train_dataloader.batch_size=480"]
    mim(python, tmp_path, "train", "mmsema", config, *options, "default_hooks.checkpoint.interval=1")
    checkpoint = tmp_path / "work/epoch_1.pth"
    tested = mim(python, tmp_path, "test", "mmsema", config, "--checkpoint", checkpoint, "--work-dir", "tested")
    assert "accuracy/top1" in tested


@pytest.mark.long
def test_mim_refuses_code_and_publishes(with_wheel, tmp_path):
    """The commands that it starts are those of tests/checkpoint/test_hostile.py."""
    python, config = with_wheel, "sema-pico_digits.py"
    options = ["--work-dir", "work", "--cfg-options", "train_cfg.max_epochs=1", "train_dataloader.batch_size=480"]
    mim(python, tmp_path, "train", "mmsema", config, *options, "default_hooks.checkpoint.interval=1")
    checkpoint = tmp_path / "work/epoch_1.pth"
    hostile, canary = tmp_path / "hostile.pth", tmp_path / "canary"
    torch.save(dict(torch.load(checkpoint, weights_only=False), meta=Call(canary)), hostile)
    for command in (["test", "mmsema", config, "--checkpoint"], ["train", "mmsema", config, "--resume"]):
        refused = mim(python, tmp_path, *command, hostile, "--work-dir", "refused", works=False)
        assert "could run code" in refused and not canary.exists()
    published = mim(python, tmp_path, "run", "mmsema", "publish_model", checkpoint, "digits.pth")
    assert len(list(tmp_path.glob("digits-????????.pth"))) == 1, published


def test_without_mmengine_the_error_says_both_install_lines(tmp_path):
    code = "import sys; sys.modules['mmengine'] = None; import mmsema"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert 'pip install ".[onedl]"' in done.stderr and 'pip install ".[openmmlab]"' in done.stderr
