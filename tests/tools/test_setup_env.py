"""What the set-up says when something is missing: one line, before any long step."""

import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = "tools/setup_env.py"


@pytest.fixture
def clone(tmp_path) -> Path:
    """As much of a fresh clone as the set-up reads, without an environment and with an empty cache."""
    constraints = [f"requirements/{name}.txt" for name in ("constraints", "constraints-openmmlab")]
    for name in (SCRIPT, *constraints, "setup.py", "pyproject.toml"):
        (tmp_path / "clone" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / "clone" / name)
    return tmp_path / "clone"


def refused(clone: Path, **env) -> str:
    started = time.time()
    environment = dict(os.environ, XDG_CACHE_HOME=str(clone.parent / "cache"), **env)
    done = subprocess.run(
        [sys.executable, clone / SCRIPT], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert time.time() - started < 120
    return done.stderr.strip().splitlines()[-1]


def test_missing_compiler(clone):
    line = refused(clone, CXX="no-such-compiler")
    assert line.startswith("setup: error: no C++ compiler (no-such-compiler)") and "apt install g++" in line
    assert not (clone / ".venv").exists()


def test_no_network(clone):
    line = refused(clone, PIP_CONFIG_FILE="/dev/null", PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_FIND_LINKS="")
    assert line.startswith("setup: error: pip could not install") and "check the network" in line


@pytest.fixture
def module(clone, monkeypatch):
    spec = importlib.util.spec_from_file_location("setup_env", clone / SCRIPT)
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    monkeypatch.setattr(loaded, "CACHE", clone.parent / "cache")
    return loaded


@pytest.fixture
def stack(module):
    return module.STACKS["onedl"]


@pytest.mark.parametrize("version", [(3, 9, 2), (3, 13, 0)])
def test_wrong_python(module, stack, monkeypatch, version):
    monkeypatch.setattr(module.sys, "version_info", version)
    with pytest.raises(SystemExit, match=r"error: Python 3.10, 3.11 or 3.12 is needed.*make demo PYTHON=python3.11"):
        module.check_machine(stack)


def test_wrong_python_for_the_official_packages(module, monkeypatch):
    monkeypatch.setattr(module.sys, "version_info", (3, 11, 7))
    with pytest.raises(SystemExit, match=r"error: Python 3.10 is needed.*make test-openmmlab PYTHON=python3.10"):
        module.check_machine(module.STACKS["openmmlab"])


def test_full_disk(module, stack, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage(2**40, 2**40, 2**30))
    with pytest.raises(SystemExit, match=r"setup: error: 9 GiB of free disk space are needed in .*, 1.0 GiB are left"):
        module.check_machine(stack)


def test_no_venv_module(module, stack, monkeypatch):
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    with pytest.raises(SystemExit, match="apt install python3-venv"):
        module.check_machine(stack)


def test_no_python_headers(module, monkeypatch):
    monkeypatch.setattr(module.sysconfig, "get_paths", lambda: dict(include="/nowhere"))
    with pytest.raises(SystemExit, match=r"/nowhere/Python.h is missing.*apt install python3-dev"):
        module.check_compiler()


def test_a_failed_or_interrupted_build_leaves_no_wheel(module, stack, monkeypatch):
    monkeypatch.setattr(module, "accelerator", lambda stack: ("cpu", {}))
    monkeypatch.setattr(stack, "pip_command", [sys.executable, "-c", "print('[1/2] c++'); raise SystemExit(1)"])
    with pytest.raises(SystemExit, match="building mmcv failed"):
        module.mmcv_wheel(stack)
    assert not list(module.CACHE.rglob("*.whl")) and not list(module.CACHE.rglob("building-*"))


def test_a_cached_wheel_is_used_unless_it_is_damaged(module, stack, monkeypatch):
    import zipfile

    monkeypatch.setattr(module, "accelerator", lambda stack: ("cpu", {}))
    monkeypatch.setattr(stack, "pip_command", [sys.executable, "-c", "raise SystemExit(1)"])
    with pytest.raises(SystemExit):
        module.mmcv_wheel(stack)
    (folder,) = (module.CACHE / "wheels").iterdir()
    wheel = folder / "onedl_mmcv.whl"
    wheel.write_bytes(b"PK half a file")
    with pytest.raises(SystemExit, match="building mmcv failed"):
        module.mmcv_wheel(stack)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("mmcv/__init__.py", "")
    assert module.mmcv_wheel(stack) == wheel


def test_nothing_is_done_twice(module, stack, monkeypatch):
    stack.venv.mkdir()
    stack.stamp.write_text(module.fingerprint(stack))
    monkeypatch.setattr(sys, "argv", [SCRIPT])
    monkeypatch.setattr(module, "check_machine", lambda stack: pytest.fail("the stamp was not read"))
    module.main()
    stack.constraints.write_text("torch==0.0.0\n")
    with pytest.raises(pytest.fail.Exception):
        module.main()
