"""Compare direct launches with Triton's own on a driver without a device, and print how many there are.

    python tests/kernels/compare_launches.py

Kernels compile for compute capability 9.0; launches are recorded: the compiled kernel, the grid and all arguments.
"""

import os
import sys
from itertools import count
from typing import Any, List, Tuple

os.environ.pop("TRITON_INTERPRET", None)  # before Triton is imported
os.environ["MMSEMA_KERNEL"] = "triton"

import torch
from mmsema_kernels import (
    depthwise_kernels,
    depthwise_residual,
    layer_norm,
    layer_norm_kernels,
    lepe_gate,
    rope_table,
    sema_attention_packed,
    token_mean,
    window_attention,
)
from mmsema_kernels.launch import Launcher
from triton.backends.compiler import GPUTarget
from triton.runtime.driver import driver

launches: List[Tuple[int, int, int, int, Tuple[Any, ...]]] = []  # the compiled kernel's number, grid, all arguments
_numbers = count()


class _Utils:
    def load_binary(self, *arguments):
        return 0, next(_numbers), 64, 0, 1024  # module, function, registers, spills, threads

    def get_device_properties(self, device):
        return dict(max_shared_mem=232_448, multiprocessor_count=132, warpSize=32)


class _Launcher:
    launch_cooperative_grid = False

    def __init__(self, source, metadata):
        pass

    def __call__(self, x, y, z, stream, function, metadata, launch_metadata, enter_hook, exit_hook, *arguments):
        launches.append((function, x, y, z, arguments))


class _Driver:
    utils, launcher_cls = _Utils(), _Launcher

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)


def maps(count, shape=(2, 9, 10, 64)):
    return [torch.randn(shape, dtype=torch.float16).requires_grad_() for _ in range(count)]


def run():
    x, attention, gate, grad = maps(4)
    (qk,) = maps(1, (2, 9, 10, 128))
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


def main():
    driver.set_active(_Driver())
    for name in ("mmsema_kernels.dispatch", "mmsema_kernels.depthwise", "mmsema_kernels.layer_norm"):
        sys.modules[name].no_triton_on = lambda device: ""
    os.environ["MMSEMA_KERNEL"] = "triton"
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


if __name__ == "__main__":
    main()
