"""Launches without Triton's own launch: on a driver without a device, what reaches the compiled kernel is the same."""

import subprocess
import sys
from pathlib import Path

import pytest
from mmsema_kernels.launch import Launcher

triton = pytest.importorskip("triton", "3.2")
SCRIPT = Path(__file__).with_name("compare_launches.py")


@pytest.mark.slow
def test_direct_launches_pass_what_triton_passes():
    if ".".join(triton.__version__.split(".")[:2]) not in Launcher.DIRECT:
        pytest.skip("in this version of Triton every launch is Triton's own")
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) > 20
