"""Make the local environment that the commands of the README run in. Standard library only.

There are two: .venv with the maintained forks of OpenMMLab, and .venv-openmmlab with the official packages.

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
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmsema"
DISK_GIB = 9  # the finished environment takes 6 GiB, pip's temporary files up to 3 more


class Stack:
    """One set of OpenMMLab packages: its environment, pinned versions, and what is installed there."""

    def __init__(self, name, venv, constraints, mmcv, packages, pythons, command):
        self.name = name
        self.venv = ROOT / venv
        self.python = self.venv / "bin" / "python"
        self.stamp = self.venv / "mmsema-ready"
        self.constraints = ROOT / "requirements" / constraints
        self.mmcv = mmcv
        self.packages = packages  # arguments for pip, beside mmcv's wheel
        self.pythons = pythons  # versions that all of them have builds for
        self.command = command  # of make, for messages
        self.pip_command = [str(self.python), "-m", "pip", "--disable-pip-version-check"]

    def pinned(self, name):
        match = re.search(r"^{}==([^\s;]+)".format(re.escape(name)), self.constraints.read_text(), re.MULTILINE)
        return match.group(1)

    def pip(self, *arguments):
        quiet = [] if sys.stdout.isatty() else ["--quiet"]
        return subprocess.call(self.pip_command + list(arguments) + quiet)


STACKS = {
    stack.name: stack
    for stack in (
        Stack(
            "onedl",
            ".venv",
            "constraints.txt",
            "onedl-mmcv",
            ["-e", "{}[onedl,dev]".format(ROOT)],
            ("3.10", "3.11", "3.12"),
            "make demo PYTHON=python3.11",
        ),
        Stack(
            "openmmlab",
            ".venv-openmmlab",
            "constraints-openmmlab.txt",
            "mmcv",
            ["-e", "{}[openmmlab,demo]".format(ROOT), "openmim", "pytest", "pytest-xdist", "wheel"],
            ("3.10",),
            "make test-openmmlab PYTHON=python3.10",
        ),
    )
}


def fail(message):
    """End with one line that says what is wrong and what to do."""
    sys.exit("setup: error: " + message)


def say(message):
    print("setup: " + message, flush=True)


def fingerprint(stack):
    parts = [
        stack.constraints.read_bytes(),
        Path(__file__).read_bytes(),
        (ROOT / "setup.py").read_bytes(),
        (ROOT / "pyproject.toml").read_bytes(),
    ]
    parts += [str(ROOT).encode(), sys.version.encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def check_machine(stack):
    """Everything that can be known to be missing before any long step."""
    if "{}.{}".format(*sys.version_info[:2]) not in stack.pythons:
        fail("Python {} is needed, {} is {}; name one, as in: {}".format(
            " or ".join(filter(None, (", ".join(stack.pythons[:-1]), stack.pythons[-1]))),
            sys.executable, platform.python_version(), stack.command))  # fmt: skip
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        fail("this Python cannot make virtual environments; on Debian: apt install python3-venv")
    free = shutil.disk_usage(str(ROOT)).free / 2**30
    if not stack.venv.exists() and free < DISK_GIB:
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


def make_venv(stack):
    if not stack.python.exists() or subprocess.call(
        stack.pip_command + ["--version"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ):
        say("making the virtual environment in {}".format(stack.venv))
        shutil.rmtree(str(stack.venv), ignore_errors=True)
        if subprocess.call([sys.executable, "-m", "venv", str(stack.venv)]):
            fail("python -m venv failed, see above")


def install_build_tools(stack):
    """The first, small download; it also shows whether the package index can be reached."""
    tools = ["{}=={}".format(name, stack.pinned(name)) for name in ("setuptools", "wheel", "ninja", "psutil")]
    if stack.pip("install", "--retries", "1", "--timeout", "20", *tools):
        fail(
            "pip could not install {}; check the network, or pip's index-url and proxy settings".format(
                ", ".join(tools)
            )
        )


def install_torch(stack):
    say("installing torch {} (about 2.5 GB to download the first time)".format(stack.pinned("torch")))
    started = time.time()
    names = ["{}=={}".format(name, stack.pinned(name)) for name in ("torch", "torchvision", "triton")]
    if stack.pip("install", "-c", str(stack.constraints), *names):
        fail("installing torch failed, see above; run the command again to go on from here")
    say("torch is in place ({:.0f} s)".format(time.time() - started))


def accelerator(stack):
    """'cpu', or 'cuda13.0-sm90' when torch sees a CUDA device."""
    code = (
        "import json, torch; ok = torch.cuda.is_available(); "
        "print(json.dumps([torch.version.cuda, torch.cuda.get_device_capability()] if ok else None))"
    )
    found = json.loads(subprocess.check_output([str(stack.python), "-c", code]).decode().splitlines()[-1])
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


def mmcv_wheel(stack):
    """The wheel of mmcv with its operators: from the cache, or built now with visible progress."""
    version, torch_version = stack.pinned(stack.mmcv), stack.pinned("torch")
    device, flags = accelerator(stack)
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
    command = stack.pip_command + ["wheel", "-v", "--no-build-isolation", "--no-deps", "--no-cache-dir"]
    command += ["--no-binary", stack.mmcv, "{}=={}".format(stack.mmcv, version), "-w", str(work)]
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


def install_project(stack, wheel):
    say("installing the OpenMMLab packages and mmsema")
    if stack.pip("install", "-c", str(stack.constraints), "--no-build-isolation", str(wheel), *stack.packages):
        fail("installing the OpenMMLab packages failed, see above; run the command again to go on from here")
    # mmcv asks for opencv-python, imaug for the headless build; they share files, and only the second needs no libGL
    opencv = "opencv-python-headless==" + stack.pinned("opencv-python-headless")
    if stack.pip("install", "--force-reinstall", "--no-deps", opencv):
        fail("installing {} failed, see above".format(opencv))
    if subprocess.call([str(stack.python), "-c", "import mmsema, mmcv.ops, mmdet, mmpretrain, pycocotools"], cwd="/"):
        fail("the environment does not import, see above; delete {} and run again".format(stack.venv))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stack", choices=sorted(STACKS), default="onedl", help="default: %(default)s")
    stack = STACKS[parser.parse_args().stack]
    if stack.stamp.exists() and stack.stamp.read_text() == fingerprint(stack):
        return
    check_machine(stack)
    if not any((CACHE / "wheels").glob("mmcv-{}_*/*.whl".format(stack.pinned(stack.mmcv)))):
        check_compiler()
    started = time.time()
    make_venv(stack)
    install_build_tools(stack)
    install_torch(stack)
    install_project(stack, mmcv_wheel(stack))
    stack.stamp.write_text(fingerprint(stack))
    say("the environment is ready ({:.0f} s)".format(time.time() - started))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nsetup: interrupted; run the command again to go on from here")
    except OSError as error:
        fail("{}".format(error))
