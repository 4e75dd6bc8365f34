"""Commands of the repository in processes of their own that find PyTorch and the hosts imported already.

Importing these takes longer than most commands that are tested. A server imports them once, and nothing of mmsema;
every command is a fork of it, with its own arguments, environment, folder and output, and ends as a command does.

``run`` takes what ``subprocess.run`` would: ``run(sys.executable, "tools/train.py", ...)``, also ``-c`` and ``-m``.
"""

import atexit
import contextlib
import importlib
import io
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import NoReturn, Optional

ROOMS = ("datasets", "engine", "evaluation", "models", "visualization")
HOSTS = [f"{host}.{room}" for host in ("mmdet", "mmpretrain", "mmseg") for room in ROOMS]
IMPORTS = ["torch", "mmengine.runner", "mmcv.ops", "pycocotools.coco", "matplotlib.pyplot", *HOSTS, "mmdet.apis"]
TIMEOUT = 600  # seconds


def run(
    *command, cwd: Optional[Path] = None, code: Optional[int] = 0, env: Optional[dict] = None
) -> subprocess.CompletedProcess:
    """Run a Python command, with ``env`` added to the environment, and check its exit code unless it is None."""
    arguments = [str(part) for part in command]
    assert arguments.pop(0) == sys.executable
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        environment = {**os.environ, **(env or {})}
        environment.pop("TRITON_INTERPRET", None)  # of the tests; a user's command runs PyTorch on the CPU
        request = dict(arguments=arguments, cwd=str(cwd or Path.cwd()), env=environment)
        server = _server()
        server.stdin.write(json.dumps(dict(request, out=str(out), err=str(err))) + "\n")
        server.stdin.flush()
        returned = int(server.stdout.readline())
        done = subprocess.CompletedProcess(arguments, returned, out.read_text(), err.read_text())
    assert code is None or returned == code, done.stdout[-3000:] + done.stderr[-3000:]
    return done


def free_port() -> int:
    """A port of this machine that nothing listens on, for a process group."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def _server() -> subprocess.Popen:
    if not hasattr(_server, "process"):
        # asking for CUDA devices as usual would forbid forks to use them
        environment = dict(os.environ, PYTORCH_NVML_BASED_CUDA_CHECK="1")
        _server.process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
        )  # fmt: skip
        atexit.register(_server.process.stdin.close)
    return _server.process


def _serve() -> None:
    """Read requests, fork for each, answer with the exit code."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in IMPORTS:
            with contextlib.suppress(ImportError):
                importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if not child:
            _become(**request)
        status = os.waitpid(child, 0)[1]
        print(os.waitstatus_to_exitcode(status), flush=True)


def _become(arguments: list, cwd: str, env: dict, out: str, err: str) -> NoReturn:
    """Be the process that was asked for, but for the end: giving back what was imported would take seconds."""
    signal.alarm(TIMEOUT)
    for number, path in ((0, os.devnull), (1, out), (2, err)):
        file = os.open(path, os.O_RDWR | os.O_CREAT)
        os.dup2(file, number)
        os.close(file)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    importlib.invalidate_caches()
    code = 1
    try:
        _start(*arguments)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if code and not isinstance(end.code, int):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _start(kind: str, *arguments: str) -> None:
    if kind == "-c":
        sys.argv, sys.path[0] = ["-c", *arguments[1:]], ""
        exec(compile(arguments[0], "<string>", "exec"), dict(__name__="__main__"))
    elif kind == "-m":
        sys.argv, sys.path[0] = list(arguments), os.getcwd()
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv, sys.path[0] = [kind, *arguments], str(Path(kind).resolve().parent)
        runpy.run_path(kind, run_name="__main__")


if __name__ == "__main__":
    _serve()
