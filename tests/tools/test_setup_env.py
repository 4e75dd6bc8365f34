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
    for name in (SCRIPT, "requirements/constraints.txt", "setup.py", "pyproject.toml"):
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


@pytest.mark.parametrize("version", [(3, 9, 2), (3, 13, 0)])
def test_wrong_python(module, monkeypatch, version):
    monkeypatch.setattr(module.sys, "version_info", version)
    with pytest.raises(SystemExit, match=r"error: Python 3.10, 3.11 or 3.12 is needed.*make demo PYTHON=python3.11"):
        module.check_machine()


def test_full_disk(module, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: usage(2**40, 2**40, 2**30))
    with pytest.raises(SystemExit, match=r"setup: error: 9 GiB of free disk space are needed in .*, 1.0 GiB are left"):
        module.check_machine()


def test_no_venv_module(module, monkeypatch):
    monkeypatch.setitem(sys.modules, "ensurepip", None)
    with pytest.raises(SystemExit, match="apt install python3-venv"):
        module.check_machine()


def test_no_python_headers(module, monkeypatch):
    monkeypatch.setattr(module.sysconfig, "get_paths", lambda: dict(include="/nowhere"))
    with pytest.raises(SystemExit, match=r"/nowhere/Python.h is missing.*apt install python3-dev"):
        module.check_compiler()


def test_a_failed_or_interrupted_build_leaves_no_wheel(module, monkeypatch):
    monkeypatch.setattr(module, "accelerator", lambda: ("cpu", {}))
    monkeypatch.setattr(module, "PIP", [sys.executable, "-c", "print('[1/2] c++'); raise SystemExit(1)"])
    with pytest.raises(SystemExit, match="building mmcv failed"):
        module.mmcv_wheel()
    assert not list(module.CACHE.rglob("*.whl")) and not list(module.CACHE.rglob("building-*"))


def test_a_cached_wheel_is_used_unless_it_is_damaged(module, monkeypatch):
    import zipfile

    monkeypatch.setattr(module, "accelerator", lambda: ("cpu", {}))
    monkeypatch.setattr(module, "PIP", [sys.executable, "-c", "raise SystemExit(1)"])
    with pytest.raises(SystemExit):
        module.mmcv_wheel()
    (folder,) = (module.CACHE / "wheels").iterdir()
    wheel = folder / "onedl_mmcv.whl"
    wheel.write_bytes(b"PK half a file")
    with pytest.raises(SystemExit, match="building mmcv failed"):
        module.mmcv_wheel()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("mmcv/__init__.py", "")
    assert module.mmcv_wheel() == wheel


def test_nothing_is_done_twice(module, monkeypatch):
    module.VENV.mkdir()
    module.STAMP.write_text(module.fingerprint())
    monkeypatch.setattr(sys, "argv", [SCRIPT])
    monkeypatch.setattr(module, "check_machine", lambda: pytest.fail("the stamp was not read"))
    module.main()
    module.CONSTRAINTS.write_text("torch==0.0.0\n")
    with pytest.raises(pytest.fail.Exception):
        module.main()
