"""What the set-up says when something is missing: one line, before any long step."""

import importlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ("tools/setup_env.py", "tools/setup_mmcv.py", "tools/setup_steps.py")
SCRIPT = SCRIPTS[0]


@pytest.fixture
def clone(tmp_path) -> Path:
    """As much of a fresh clone as the set-up reads, without an environment and with an empty cache."""
    constraints = [f"requirements/{name}.txt" for name in ("constraints", "constraints-openmmlab")]
    for name in (*SCRIPTS, *constraints, "setup.py", "pyproject.toml"):
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


@pytest.mark.slow
def test_no_network(clone):
    line = refused(clone, PIP_CONFIG_FILE="/dev/null", PIP_INDEX_URL="http://127.0.0.1:9/simple", PIP_FIND_LINKS="")
    assert line.startswith("setup: error: the build tools failed") and "check the network" in line


@pytest.fixture
def module(clone, monkeypatch):
    monkeypatch.syspath_prepend(clone / "tools")
    for name in ("setup_env", "setup_mmcv", "setup_steps"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    loaded = importlib.import_module("setup_env")
    monkeypatch.setattr(loaded.setup_mmcv, "CACHE", clone.parent / "cache")
    return loaded


@pytest.fixture
def mmcv(module):
    return module.setup_mmcv


@pytest.fixture
def stack(module):
    return module.STACKS["onedl"]


@pytest.mark.parametrize("version", [(3, 9, 2), (3, 14, 0)])
def test_wrong_python(module, stack, monkeypatch, version):
    monkeypatch.setattr(module.sys, "version_info", version)
    with pytest.raises(
        SystemExit, match=r"error: Python 3.10, 3.11, 3.12 or 3.13 is needed.*make demo PYTHON=python3.11"
    ):
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


def test_no_python_headers(mmcv, monkeypatch):
    monkeypatch.setattr(mmcv.sysconfig, "get_paths", lambda: dict(include="/nowhere"))
    with pytest.raises(SystemExit, match=r"/nowhere/Python.h is missing.*apt install python3-dev"):
        mmcv.check_compiler()


@pytest.fixture
def no_build(mmcv, stack, monkeypatch):
    """A build that starts to compile and fails."""
    monkeypatch.setattr(mmcv, "accelerator", lambda stack: ("cpu", {}))
    monkeypatch.setattr(mmcv, "precompile_headers", lambda stack, env, folder: None)
    monkeypatch.setattr(stack, "pip_command", [sys.executable, "-c", "print('[1/2] c++'); raise SystemExit(1)"])


def test_a_failed_or_interrupted_build_leaves_no_wheel(mmcv, stack, no_build, capsys):
    with pytest.raises(SystemExit, match="mmcv's operators failed; the lines above end the log .*mmcv.log"):
        mmcv.mmcv_wheel(stack)
    assert "  [1/2] c++\n" in capsys.readouterr().out
    assert not list(mmcv.CACHE.rglob("*.whl")) and not list(mmcv.CACHE.rglob("building-*"))


def test_a_cached_wheel_is_used_unless_it_is_damaged(mmcv, stack, no_build):
    with pytest.raises(SystemExit):
        mmcv.mmcv_wheel(stack)
    (folder,) = (mmcv.CACHE / "wheels").iterdir()
    wheel = folder / "onedl_mmcv.whl"
    wheel.write_bytes(b"PK half a file")
    with pytest.raises(SystemExit, match="mmcv's operators failed"):
        mmcv.mmcv_wheel(stack)
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("mmcv/__init__.py", "")
    assert mmcv.mmcv_wheel(stack) == wheel


@pytest.fixture
def small_header(mmcv, stack, monkeypatch):
    """A header in place of torch's, which takes 17 s; the flags and the compiler are real."""
    flags = ["-O1", "-fPIC", "-std=c++17", f"-I{stack.venv}"]
    monkeypatch.setattr(stack, "output", lambda code, env: json.dumps(flags).encode())
    (stack.venv / "torch").mkdir(parents=True)
    (stack.venv / "torch/types.h").write_text("#include <vector>\ninline int answer() { return 42; }\n")
    return flags


def compile_with(flags, folder: Path) -> str:
    """Compile a file that calls ``answer``; what the compiler says, with the files that it reads."""
    (folder / "user.cpp").write_text("int main() { return answer(); }\n")
    command = ["c++", "-H", *flags, "-c", str(folder / "user.cpp"), "-o", str(folder / "user.o")]
    return subprocess.run(command, capture_output=True, text=True, check=True).stderr


def test_precompiled_headers_are_read_where_the_flags_agree(mmcv, stack, small_header, tmp_path):
    use = shlex.split(mmcv.precompile_headers(stack, dict(os.environ), tmp_path))
    # -H marks a precompiled header with "!", one that does not fit with "x"
    assert f"! {tmp_path}/torch_types.h.gch" in compile_with([*small_header, *use], tmp_path)
    refused = compile_with([*small_header, "-O0", *use], tmp_path)
    assert f"x {tmp_path}/torch_types.h.gch" in refused and "[-Winvalid-pch]" in refused


def test_other_compilers_and_broken_headers_build_without(mmcv, stack, small_header, tmp_path, monkeypatch):
    (stack.venv / "torch/types.h").write_text("#error no such thing\n")
    assert mmcv.precompile_headers(stack, dict(os.environ), tmp_path) is None
    clang = tmp_path / "clang++"
    clang.write_text("#!/bin/sh\necho clang version 14.0.6\n")
    clang.chmod(0o755)
    monkeypatch.setenv("CXX", str(clang))
    assert mmcv.precompile_headers(stack, dict(os.environ), tmp_path) is None


def test_the_build_says_when_it_goes_without_precompiled_headers(mmcv, stack, no_build, capsys):
    with pytest.raises(SystemExit):
        mmcv.mmcv_wheel(stack)
    assert "cannot be precompiled with c++: mmcv's operators take" in capsys.readouterr().out


def test_packages_installed_at_the_same_time_are_others(module, stack, monkeypatch):
    started = {}
    monkeypatch.setattr(stack, "pip", lambda name, log, *arguments: started.setdefault(name, set(arguments)))
    module.start_other_packages(stack)
    monkeypatch.setattr(stack, "pip", lambda name, log, *arguments: started.update({name: set(arguments)}) or Done())
    module.install_torch(stack)
    torch, others = started["torch"], started["the OpenMMLab packages"]
    assert torch & others == {"--no-deps"} and "torch==2.11.0" in torch and "onedl-mmdetection==3.5.1" in others
    assert any(pin.startswith("typing_extensions") for pin in torch)  # importing torch needs it at once
    left = set(stack.pins()) - torch - others
    assert {pin.split("==")[0] for pin in left} == {"onedl-mmcv", "opencv-python-headless"}


class Done:
    def wait(self):
        return 0

    def seconds(self):
        return 0.0


def test_two_set_ups_take_turns(module, stack, capfd):
    with module.lock(stack):
        code = "import setup_env\nwith setup_env.lock(setup_env.STACKS['onedl']): print('my turn')"
        other = subprocess.Popen([sys.executable, "-u", "-c", code], cwd=module.ROOT / "tools", stdout=subprocess.PIPE)
        assert b"another set-up of" in other.stdout.readline()
        assert other.poll() is None
    assert other.stdout.read() == b"my turn\n" and other.wait() == 0


def test_an_interrupted_set_up_stops_what_it_started(module, tmp_path):
    step = module.Step("sleeping", ["sleep", "100"], tmp_path / "log")
    module.Step.stop_all()
    assert step.process.poll() is not None


def test_nothing_is_done_twice(module, stack, monkeypatch):
    stack.venv.mkdir()
    stack.stamp.write_text(module.fingerprint(stack))
    monkeypatch.setattr(sys, "argv", [SCRIPT])
    monkeypatch.setattr(module, "check_machine", lambda stack: pytest.fail("the stamp was not read"))
    module.main()
    stack.constraints.write_text("torch==0.0.0\n")
    with pytest.raises(pytest.fail.Exception):
        module.main()


@pytest.mark.parametrize("forbidden", [True, False])
def test_pip_makes_the_bytecode_that_imports_must_not_write(module, stack, monkeypatch, forbidden):
    monkeypatch.setattr(sys, "dont_write_bytecode", forbidden)
    monkeypatch.setattr(stack, "pip_command", [sys.executable, "-c", "import sys; print(sys.argv[1:])"])
    step = stack.pip("mmsema", "mmsema.log", "mmsema")
    assert step.wait() == 0
    assert ("--no-compile" not in step.log.read_text()) == forbidden
