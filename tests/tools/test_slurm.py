"""The Slurm scripts, with an srun that only writes down what it was asked for."""

import os
import subprocess
from pathlib import Path

import pytest

TOOLS = Path(__file__).resolve().parents[2] / "tools"


def run(tmp_path: Path, script: str, *arguments: str) -> subprocess.CompletedProcess:
    srun = tmp_path / "srun"
    srun.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    srun.chmod(0o755)
    environment = dict(
        os.environ, PATH=f"{tmp_path}:{os.environ['PATH']}", PYTHON="py", GPUS="16", SRUN_ARGS="--qos=a -x n"
    )
    return subprocess.run([TOOLS / script, *arguments], capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("tool, files", [("train", ["config.py"]), ("test", ["config.py", "weights.pth"])])
def test_srun_gets_the_job_and_the_tool_its_arguments(tool, files, tmp_path):
    done = run(tmp_path, f"slurm_{tool}.sh", "partition", "job", *files, "--work-dir", "a folder")
    words = done.stdout.splitlines()
    command = ["py", "-u", str(TOOLS / f"{tool}.py"), *files, "--launcher", "slurm", "--work-dir", "a folder"]
    assert words[-len(command) :] == command
    assert {"--partition=partition", "--job-name=job", "--ntasks=16", "--gres=gpu:8", "--qos=a", "-x", "n"} <= set(
        words
    )


@pytest.mark.parametrize("script", ["slurm_train.sh", "slurm_test.sh"])
def test_too_few_arguments_show_the_usage(script, tmp_path):
    done = run(tmp_path, script, "partition", "job")
    assert done.returncode == 2 and "usage: " in done.stderr
