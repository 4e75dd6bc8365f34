"""Make the local environment that the commands of the README run in. Standard library only.

There are two: .venv with the maintained forks of OpenMMLab, and .venv-openmmlab with the official packages.

Safe to interrupt and to run again: every step is repeated or skipped, and the stamp is written last.
"""

import argparse
import fcntl
import hashlib
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import setup_mmcv
from setup_steps import Step, fail, say

ROOT = Path(__file__).resolve().parents[1]
# and what importing torch needs, as mmcv is built while the other packages are still being installed
TORCH_PACKAGES = re.compile(
    r"(torch|torchvision|triton|nvidia-[\w-]+|cuda-[\w-]+|filelock|fsspec|Jinja2|MarkupSafe|mpmath|networkx|numpy|sympy"
    r"|typing_extensions)=="
)
GO_ON = "run the command again to go on from here"
DISK_GIB = 9  # the finished environment takes 6 GiB, pip's temporary files up to 3 more


class Stack:
    """One set of OpenMMLab packages: its environment, pinned versions, and what is installed there."""

    def __init__(self, name, venv, constraints, mmcv, packages, pythons, command):
        self.name = name
        self.venv = ROOT / venv
        self.python = self.venv / "bin" / "python"
        self.logs = self.venv / "logs"
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

    def pins(self):
        lines = self.constraints.read_text().splitlines()
        return [line for line in lines if line and not line.startswith("#")]

    def output(self, code, env=None):
        """What the environment's Python prints for ``code``."""
        with open(str(self.logs / "questions.log"), "ab") as log:  # torch's notes, such as "No CUDA runtime is found"
            return subprocess.check_output([str(self.python), "-c", code], env=env, stderr=log)

    def pip(self, name, log, *arguments):
        """Start to install ``arguments``.

        Bytecode is made when a module is first imported, which most never are; where PYTHONDONTWRITEBYTECODE forbids
        that, pip makes all of it now, as imports would take twice the time for ever.
        """
        command = self.pip_command + ["install", "--no-warn-script-location"]
        command += [] if sys.dont_write_bytecode else ["--no-compile"]
        return Step(name, command + list(arguments), self.logs / log)


STACKS = {
    stack.name: stack
    for stack in (
        Stack(
            "onedl",
            ".venv",
            "constraints.txt",
            "onedl-mmcv",
            ["-e", "{}[onedl,dev]".format(ROOT)],
            ("3.10", "3.11", "3.12", "3.13"),
            "make demo PYTHON=python3.11",
        ),
        Stack(
            "openmmlab",
            ".venv-openmmlab",
            "constraints-openmmlab.txt",
            "mmcv",
            ["-e", "{}[openmmlab,demo]".format(ROOT), "hypothesis", "openmim", "pytest", "pytest-xdist", "wheel"],
            ("3.10",),
            "make test-openmmlab PYTHON=python3.10",
        ),
    )
}


def fingerprint(stack):
    parts = [
        stack.constraints.read_bytes(),
        *(path.read_bytes() for path in sorted((ROOT / "tools").glob("setup_*.py"))),
        (ROOT / "setup.py").read_bytes(),
        (ROOT / "pyproject.toml").read_bytes(),
    ]
    parts += [str(ROOT).encode(), sys.version.encode()]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def is_ready(stack):
    return stack.stamp.exists() and stack.stamp.read_text() == fingerprint(stack)


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
    options = ["--retries", "1", "--timeout", "20", "-c", str(stack.constraints)]
    step = stack.pip("the build tools", "build-tools.log", *options, *tools)
    if step.wait():
        step.fail("if pip could not reach its index, check the network, or pip's index-url and proxy settings")


def start_other_packages(stack):
    """Everything but torch, mmcv and mmsema, beside the steps that need only one core or only the network.

    The pins are a whole environment, so pip takes them as they are: without resolving, none can come from here and with
    torch at the same time. What has no pin on this Python, install_project adds.
    """
    left_out = re.compile(TORCH_PACKAGES.pattern + r"|({}|opencv-python-headless)==".format(re.escape(stack.mmcv)))
    return stack.pip(
        "the OpenMMLab packages",
        "packages.log",
        "--no-deps",
        "--no-build-isolation",
        *(pin for pin in stack.pins() if not left_out.match(pin)),
    )


def install_torch(stack):
    say(
        "installing torch {} and the OpenMMLab packages (2.5 GB to download the first time)".format(
            stack.pinned("torch")
        )
    )
    pins = [pin for pin in stack.pins() if TORCH_PACKAGES.match(pin)]
    step = stack.pip("torch", "torch.log", "--no-deps", *pins)
    if step.wait():
        step.fail(GO_ON)
    say("torch is in place ({:.0f} s)".format(step.seconds()))


def install_project(stack, wheel):
    step = stack.pip(
        "mmsema", "mmsema.log", "-c", str(stack.constraints), "--no-build-isolation", str(wheel), *stack.packages
    )
    if step.wait():
        step.fail(GO_ON)
    # mmcv asks for opencv-python, imaug for the headless build; they share files, and only the second needs no libGL
    opencv = "opencv-python-headless==" + stack.pinned("opencv-python-headless")
    step = stack.pip("opencv", "opencv.log", "--force-reinstall", "--no-deps", opencv)
    if step.wait():
        step.fail(GO_ON)
    check = [str(stack.python), "-c", "import mmsema, mmcv.ops, mmdet, mmpretrain, pycocotools"]
    step = Step("importing everything once", check, stack.logs / "imports.log")
    if step.wait():
        step.fail("delete {} and run the command again".format(stack.venv))


def lock(stack):
    """Let one set-up work at a time. The file stays locked while a command of an interrupted one still runs."""
    stream = open(str(stack.constraints))  # noqa: SIM115, locked until it is closed
    os.set_inheritable(stream.fileno(), True)
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("another set-up of {} is at work; waiting for it".format(stack.venv))
        fcntl.flock(stream, fcntl.LOCK_EX)
    return stream


def make(stack):
    check_machine(stack)
    if not any((setup_mmcv.CACHE / "wheels").glob("mmcv-{}_*/*.whl".format(stack.pinned(stack.mmcv)))):
        setup_mmcv.check_compiler()
    started = time.time()
    make_venv(stack)
    install_build_tools(stack)
    others = start_other_packages(stack)
    install_torch(stack)
    if others.failed():
        others.fail(GO_ON)
    wheel = setup_mmcv.mmcv_wheel(stack)
    if others.wait():
        others.fail(GO_ON)
    install_project(stack, wheel)
    stack.stamp.write_text(fingerprint(stack))
    say("the environment is ready ({:.0f} s)".format(time.time() - started))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stack", choices=sorted(STACKS), default="onedl", help="default: %(default)s")
    stack = STACKS[parser.parse_args().stack]
    if is_ready(stack):
        return
    with lock(stack):
        if not is_ready(stack):
            make(stack)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("\nsetup: interrupted; run the command again to go on from here")
    except OSError as error:
        fail("{}".format(error))
    finally:
        Step.stop_all()
