"""Build mmcv's wheel with its operators, or take it from the cache. Standard library only; part of setup_env.py.

Compiling them spends most of its time on torch's headers, the same in each of the 78 files. GCC precompiles them once,
and every compilation then reads that file. Where this is not possible (another compiler, or one that refuses the file),
the build runs without.
"""

import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
import zipfile
from pathlib import Path

from setup_steps import Step, fail, say

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmsema"

# The flags that mmcv's files are compiled with, as setuptools, torch and mmcv's setup.py put them together: a
# precompiled header is used only where they agree. CPPFLAGS are added to Python's own flags, CFLAGS would replace them.
FLAGS = """
import json, sys, sysconfig, setuptools, torch
from distutils.ccompiler import new_compiler
from distutils.sysconfig import customize_compiler
from torch.utils.cpp_extension import BuildExtension, include_paths
compiler = new_compiler()
customize_compiler(compiler)
folders = include_paths() + [sysconfig.get_paths()["include"]]
flags = compiler.compiler_so[1:] + ["-I" + folder for folder in folders] + ["-std=c++17"]
if hasattr(BuildExtension, "_add_gnu_cpp_abi_flag"):  # torch before 2.7 names the ABI to the compiler
    flags.append("-D_GLIBCXX_USE_CXX11_ABI={:d}".format(torch._C._GLIBCXX_USE_CXX11_ABI))
print(json.dumps(flags))
"""


def cxx():
    return os.environ.get("CXX") or "c++"


def check_compiler():
    """mmcv's operators are C++: a compiler and Python's headers must be there."""
    if shutil.which(cxx()) is None:
        fail("no C++ compiler ({}) to build mmcv's operators with; on Debian: apt install g++".format(cxx()))
    header = Path(sysconfig.get_paths()["include"]) / "Python.h"
    if not header.exists():
        fail("{} is missing, mmcv's operators need it; on Debian: apt install python3-dev".format(header))


def accelerator(stack):
    """'cpu', or 'cuda13.0-sm90' when torch sees a CUDA device."""
    code = (
        "import json, torch; ok = torch.cuda.is_available(); "
        "print(json.dumps([torch.version.cuda, torch.cuda.get_device_capability()] if ok else None))"
    )
    found = json.loads(stack.output(code).decode().splitlines()[-1])
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


def precompile_headers(stack, env, folder):
    """Precompile torch's headers in ``folder`` for a build in the environment ``env``.

    Returns:
        The CPPFLAGS that make the build use them, or None where there is no GCC or it does not take its own file.
    """
    version = subprocess.run([cxx(), "--version"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT).stdout
    if b"Free Software Foundation" not in version:
        return None
    header = folder / "torch_types.h"
    header.write_text("#include <torch/types.h>\n")
    flags = json.loads(stack.output(FLAGS, env).decode().splitlines()[-1])
    target = ["-x", "c++-header", str(header), "-o", str(header) + ".gch"]
    if Step("torch's headers", [cxx()] + flags + target, stack.logs / "headers.log", env=env).wait():
        return None
    use = ["-include", str(header), "-Winvalid-pch"]
    trial = ["-Werror=invalid-pch", "-fsyntax-only", "-x", "c++", os.devnull]
    if Step(
        "torch's headers, a trial", [cxx()] + flags + use + trial, stack.logs / "headers-trial.log", env=env
    ).wait():
        return None
    return " ".join(map(shlex.quote, use))


def build(stack, version, flags, work):
    """Build the wheel in the folder ``work``; its path."""
    # debug information would make the library three times as large
    cppflags = os.environ.get("CPPFLAGS", "") + " -g0"
    env = dict(os.environ, MMCV_WITH_OPS="1", MAX_JOBS=str(build_jobs()), CPPFLAGS=cppflags, **flags)
    started = time.time()
    precompiled = precompile_headers(stack, env, work)
    if precompiled is None:
        say(
            "torch's headers cannot be precompiled with {}: mmcv's operators take 7 to 12 minutes on 2 cores".format(
                cxx()
            )
        )
    else:
        env["CPPFLAGS"] += " " + precompiled
    command = stack.pip_command + ["wheel", "-v", "--no-build-isolation", "--no-deps", "--no-cache-dir"]
    command += ["--no-binary", stack.mmcv, "{}=={}".format(stack.mmcv, version), "-w", str(work)]
    step = Step("mmcv's operators", command, stack.logs / "mmcv.log", env=env)
    if step.wait():
        step.fail("run the command again after mending what they say")
    refused = step.log.read_bytes().count(b"[-Winvalid-pch]")
    if refused:
        say("{} files were compiled without the precompiled headers, see {}".format(refused, step.log))
    return next(work.glob("*.whl")), time.time() - started


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
            say("mmcv {} with operators for {}: from the cache {}".format(version, device, folder.parent))
            return wheel
    check_compiler()
    work = folder / "building-{}".format(os.getpid())
    work.mkdir(parents=True)
    try:
        built, seconds = build(stack, version, flags, work)
        wheel = folder / built.name
        os.replace(str(built), str(wheel))  # whole or not at all: an interrupted build leaves nothing behind
    finally:
        shutil.rmtree(str(work), ignore_errors=True)
    say("mmcv {} with operators for {}: built in {:.0f} s, kept in {}".format(version, device, seconds, folder.parent))
    return wheel
