"""Make the local environment (.venv) that the two commands of the README run in. Standard library only.

Safe to interrupt and to run again: every step is repeated or skipped, and the stamp is written last.
"""

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
VENV = ROOT / ".venv"
VENV_PYTHON = VENV / "bin" / "python"
STAMP = VENV / "mmsema-ready"
CONSTRAINTS = ROOT / "requirements" / "constraints.txt"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmsema"
DISK_GIB = 9  # the finished environment takes 6 GiB, pip's temporary files up to 3 more
PIP = [str(VENV_PYTHON), "-m", "pip", "--disable-pip-version-check"]


def fail(message):
    """End with one line that says what is wrong and what to do."""
    sys.exit("setup: error: " + message)


def say(message):
    print("setup: " + message, flush=True)


def pinned(name):
    match = re.search(r"^{}==([^\s;]+)".format(re.escape(name)), CONSTRAINTS.read_text(), re.MULTILINE)
    return match.group(1)


def fingerprint():
    parts = [
        CONSTRAINTS.read_bytes(),
        Path(__file__).read_bytes(),
        (ROOT / "setup.py").read_bytes(),
        (ROOT / "pyproject.toml").read_bytes(),
    ]
    parts += [str(ROOT).encode(), sys.version.encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def check_machine():
    """Everything that can be known to be missing before any long step."""
    if not (3, 10) <= sys.version_info[:2] <= (3, 12):
        fail("Python 3.10, 3.11 or 3.12 is needed, {} is {}; name one, as in: make demo PYTHON=python3.11".format(
            sys.executable, platform.python_version()))  # fmt: skip
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        fail("this Python cannot make virtual environments; on Debian: apt install python3-venv")
    existing = next(p for p in (VENV, ROOT) if p.exists())
    free = shutil.disk_usage(str(existing)).free / 2**30
    if not VENV.exists() and free < DISK_GIB:
        fail("{} GiB of free disk space are needed in {}, {:.1f} GiB are left; free some or clone elsewhere".format(
            DISK_GIB, ROOT, free))  # fmt: skip


def check_compiler():
    """mmcv's operators are C++: a compiler and Python's headers must be there."""
    compiler = os.environ.get("CXX") or "c++"
    if shutil.which(compiler) is None:
        fail("no C++ compiler ({}) to build mmcv's operators with; on Debian: apt install g++".format(compiler))
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not header.exists():
        fail("{} is missing, mmcv's operators need it; on Debian: apt install python3-dev".format(header))


def make_venv():
    if not VENV_PYTHON.exists() or subprocess.call(
        PIP + ["--version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ):
        say("making the virtual environment in {}".format(VENV))
        shutil.rmtree(str(VENV), ignore_errors=True)
        if subprocess.call([sys.executable, "-m", "venv", str(VENV)]):
            fail("python -m venv failed, see above")


def pip(*arguments, **options):
    env = dict(os.environ, **options)
    quiet = [] if sys.stdout.isatty() else ["--quiet"]
    return subprocess.call(PIP + list(arguments) + quiet, env=env)


def install_build_tools():
    """The first, small download; it also shows whether the package index can be reached."""
    tools = ["{}=={}".format(name, pinned(name)) for name in ("setuptools", "wheel", "ninja", "psutil")]
    if pip("install", "--retries", "1", "--timeout", "20", *tools):
        fail(
            "pip could not install {}; check the network, or pip's index-url and proxy settings".format(
                ", ".join(tools)
            )
        )


def install_torch():
    say("installing torch {} (about 2.5 GB to download the first time)".format(pinned("torch")))
    started = time.time()
    names = ["{}=={}".format(name, pinned(name)) for name in ("torch", "torchvision", "triton")]
    if pip("install", "-c", str(CONSTRAINTS), *names):
        fail("installing torch failed, see above; run the command again to go on from here")
    say("torch is in place ({:.0f} s)".format(time.time() - started))


def accelerator():
    """'cpu', or 'cuda13.0-sm90' when torch sees a CUDA device."""
    code = (
        "import json, torch; ok = torch.cuda.is_available(); "
        "print(json.dumps([torch.version.cuda, torch.cuda.get_device_capability()] if ok else None))"
    )
    found = json.loads(subprocess.check_output([str(VENV_PYTHON), "-c", code]).decode().splitlines()[-1])
    if found is None:
        return "cpu", {}
    cuda, (major, minor) = found
    if shutil.which("nvcc") is None and "CUDA_HOME" not in os.environ:
        fail("torch sees a CUDA device, but there is no nvcc to build mmcv's operators for it: install the CUDA {} "
             "toolkit and put nvcc on PATH, or hide the device (CUDA_VISIBLE_DEVICES=) to run on the CPU".format(cuda)
        )  # fmt: skip
    arch = "{}.{}".format(major, minor)
    return "cuda{}-sm{}{}".format(cuda, major, minor), {"FORCE_CUDA": "1", "TORCH_CUDA_ARCH_LIST": arch}


def build_jobs():
    """Parallel compilations: one a core, and 2 GiB of memory for each."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return max(1, min(len(os.sched_getaffinity(0)), int(memory // 2)))


def mmcv_wheel():
    """The wheel of mmcv with its operators: from the cache, or built now with visible progress."""
    version, torch_version = pinned("onedl-mmcv"), pinned("torch")
    device, flags = accelerator()
    tag = "cp{}{}".format(*sys.version_info[:2])
    folder = (
        CACHE / "wheels" / "mmcv-{}_torch-{}_{}_{}_{}".format(version, torch_version, device, tag, platform.machine())
    )
    for wheel in folder.glob("*.whl"):
        if zipfile.is_zipfile(str(wheel)):
            say("mmcv {} with operators for {}: from the cache".format(version, device))
            return wheel
    check_compiler()
    work = folder / "building-{}".format(os.getpid())
    work.mkdir(parents=True)
    log = CACHE / "build-mmcv.log"
    jobs = build_jobs()
    say("building mmcv {} with operators for {}, {} at a time (7 to 12 minutes on 2 cores); log: {}".format(
        version, device, jobs, log))  # fmt: skip
    env = dict(os.environ, MMCV_WITH_OPS="1", MAX_JOBS=str(jobs), **flags)
    command = PIP + ["wheel", "-v", "--no-build-isolation", "--no-deps", "--no-binary", "onedl-mmcv", "--no-cache-dir"]
    command += ["onedl-mmcv==" + version, "-w", str(work)]
    started, shown = time.time(), -1
    try:
        process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        with open(str(log), "wb") as stream:
            for line in process.stdout:
                stream.write(line)
                step = re.match(rb"\s*\[(\d+)/(\d+)\]", line)
                if step:
                    done, total = int(step.group(1)), int(step.group(2))
                    tenth = done if sys.stdout.isatty() else done * 10 // total
                    if tenth != shown:
                        shown = tenth
                        text = "setup:   {}/{} files compiled, {:.0f} s".format(done, total, time.time() - started)
                        print(text, end="\r" if sys.stdout.isatty() else "\n", flush=True)
        if process.wait():
            tail = log.read_text(errors="replace").splitlines()[-15:]
            print("\n".join(tail))
            fail("building mmcv failed; the lines above end the log {}".format(log))
        built = next(work.glob("*.whl"))
        wheel = folder / built.name
        os.replace(str(built), str(wheel))  # whole or not at all: an interrupted build leaves nothing behind
    finally:
        shutil.rmtree(str(work), ignore_errors=True)
    say("mmcv is built ({:.0f} s) and kept in {}".format(time.time() - started, folder))
    return wheel


def install_project(wheel):
    say("installing the OpenMMLab packages and mmsema")
    arguments = [
        "install",
        "-c",
        str(CONSTRAINTS),
        "--no-build-isolation",
        str(wheel),
        "-e",
        "{}[onedl,dev]".format(ROOT),
    ]
    if pip(*arguments):
        fail("installing the OpenMMLab packages failed, see above; run the command again to go on from here")
    # mmcv asks for opencv-python, imaug for the headless build; they share files, and only the second needs no libGL
    opencv = "opencv-python-headless==" + pinned("opencv-python-headless")
    if pip("install", "--force-reinstall", "--no-deps", opencv):
        fail("installing {} failed, see above".format(opencv))
    if subprocess.call([str(VENV_PYTHON), "-c", "import mmsema, mmcv.ops, mmdet, mmpretrain, pycocotools"], cwd="/"):
        fail("the environment does not import, see above; delete {} and run again".format(VENV))


def main():
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    if STAMP.exists() and STAMP.read_text() == fingerprint():
        return
    check_machine()
    if not any((CACHE / "wheels").glob("*/*.whl")):
        check_compiler()
    started = time.time()
    make_venv()
    install_build_tools()
    install_torch()
    install_project(mmcv_wheel())
    STAMP.write_text(fingerprint())
    say("the environment is ready ({:.0f} s)".format(time.time() - started))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nsetup: interrupted; run the command again to go on from here")
    except OSError as error:
        fail("{}".format(error))
