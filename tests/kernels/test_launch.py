"""Launches without Triton's own launch: on a driver without a device, what reaches the compiled kernel is the same."""

import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton", "3.2")
HERE = Path(__file__).parent

SCRIPT = """
import os, sys
os.environ.pop("TRITON_INTERPRET", None)  # before Triton is imported
sys.path.insert(0, {here!r})
from recorded_launches import launches
import torch
from mmsema_kernels import depthwise_residual, layer_norm, lepe_gate, rope_table
from mmsema_kernels import depthwise_kernels, layer_norm_kernels, sema_attention_packed, token_mean, window_attention
from mmsema_kernels.launch import Launcher

for name in ("mmsema_kernels.dispatch", "mmsema_kernels.depthwise", "mmsema_kernels.layer_norm"):
    sys.modules[name].no_triton_on = lambda device: ""
os.environ["MMSEMA_KERNEL"] = "triton"


def maps(count, shape=(2, 9, 10, 64)):
    return [torch.randn(shape, dtype=torch.float16).requires_grad_() for _ in range(count)]


def run():
    x, attention, gate, grad = maps(4)
    qk, = maps(1, (2, 9, 10, 128))
    w, b = torch.randn(64, 1, 3, 3, requires_grad=True), torch.randn(64, requires_grad=True)
    sizes = torch.tensor([[9, 10], [4, 3]], dtype=torch.int32)
    for s in (None, sizes):
        for out, inputs in (
            (depthwise_residual(x, w, b, sizes=s), (x, w, b)),
            (lepe_gate(attention, x, w, b, gate, sizes=s), (x, w, b, attention, gate)),
            (sema_attention_packed(qk, x, 2, rope=rope_table(7, 64), sizes=s), (qk, x)),
            (layer_norm(x, w[:, 0, 0, 0], b), (x, w, b)),
        ):
            torch.autograd.grad(out, inputs, grad)
    with torch.no_grad():
        layer_norm(x.flatten()[1:129].view(2, 64), w[:, 0, 0, 0], b)  # a pointer that is no multiple of 16


def shape_of(launch):
    *kernel_and_grid, arguments = launch
    return kernel_and_grid, [(tuple(a.shape), a.dtype) if isinstance(a, torch.Tensor) else a for a in arguments]


launchers = [
    value
    for module in (depthwise_kernels, layer_norm_kernels, token_mean, window_attention)
    for value in vars(module).values()
    if isinstance(value, Launcher)
]
assert len(launchers) == 7 and all(launcher.direct for launcher in launchers)
seen = []
for direct in (False, True, True):
    for launcher in launchers:
        launcher.direct = direct
    launches.clear()
    run()
    seen.append(list(map(shape_of, launches)))
by_triton, first, direct = seen
assert by_triton == first == direct
assert all(launcher.compiled for launcher in launchers)
print(len(direct))
"""


@pytest.mark.slow
def test_direct_launches_pass_what_triton_passes():
    if ".".join(triton.__version__.split(".")[:2]) not in ("3.6",):
        pytest.skip("in this version of Triton every launch is Triton's own")
    done = subprocess.run([sys.executable, "-c", SCRIPT.format(here=str(HERE))], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout) > 20
