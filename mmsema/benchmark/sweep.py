"""Kernels in many configurations: which values of their modules' constants are the fastest on a device."""

from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any, Callable, Dict, List, Sequence, Tuple
from unittest import mock

import torch
from mmsema_kernels import rope_table
from torch import Tensor

from .report import Report, Row, reason
from .timing import input_sets, measured, relative_error, times

WINDOW = 7
# (B, H, W, C): the first stage of 224 x 224 and of 800 x 1333, and a map of more channels
SHAPES = [(128, 56, 56, 64), (16, 200, 334, 64), (128, 14, 14, 256)]
LIMIT = 2e-2  # relative error in norm between two configurations, which round bfloat16 alike but sum in another order

Constants = Dict[str, Any]


@dataclass
class Sweep:
    """One operator at one shape; its candidates are values of constants of ``module``."""

    op: str
    maps: int  # of U bytes each that must move: inputs read once, outputs written once
    module: ModuleType
    candidates: Dict[str, Constants]
    run: Callable[..., Sequence[Tensor]]  # takes q, k, v and a gradient, (B, H, W, C) each


def named(module: ModuleType, labels: Dict[str, str], others: Sequence[Tuple[int, ...]]) -> Dict[str, Constants]:
    """The values that constants of ``module`` have, then others; ``labels``: words in a name -> the constants."""
    constants = list(labels.values())
    return {
        ", ".join(f"{word} {value}" for word, value in zip(labels, values, strict=True)): dict(
            zip(constants, values, strict=True)
        )
        for values in (tuple(getattr(module, constant) for constant in constants), *others)
    }


def sweeps(B: int, H: int, W: int, C: int, device: str) -> List[Sweep]:
    """All operators at one shape, each first as it is."""
    from mmsema_kernels import depthwise_kernels, layer_norm_kernels, token_mean, window_attention

    heads, d = C // 32, 32
    rope = rope_table(WINDOW, C, device)
    at = (rope, heads, WINDOW, d**-0.5, True)
    weight, bias = torch.randn(C, 1, 3, 3, device=device), torch.randn(C, device=device)
    forward: Dict[str, Constants] = {
        f"warps {warps}, registers {registers or 'unlimited'}": dict(
            NUM_WARPS=warps, FORWARD_REGISTERS={(d, WINDOW): registers} if registers else {}
        )
        for registers in (window_attention.FORWARD_REGISTERS.get((d, WINDOW)), None, 96, 80, 72)
        for warps in (window_attention.NUM_WARPS, 2, 1)
    }
    backward: Dict[str, Constants] = {
        f"warps {warps}": dict(NUM_WARPS=warps, BACKWARD_WARPS={}) for warps in (window_attention.NUM_WARPS, 2, 1)
    }
    mean = named(
        token_mean,
        dict(tokens="BLOCK_TOKENS", warps="NUM_WARPS"),
        [(16, 4), (8, 4), (16, 2), (32, 2), (32, 4), (64, 4), (64, 8)],
    )
    strips = named(
        depthwise_kernels,
        dict(channels="BLOCK_CHANNELS", columns="FORWARD_COLS", rows="FORWARD_ROWS", warps="NUM_WARPS"),
        [(64, 8, 16, 1), (64, 4, 16, 1), (64, 8, 8, 1), (64, 8, 32, 1), (64, 16, 16, 2), (32, 8, 16, 1)],
    )
    grad_strips = named(
        depthwise_kernels,
        dict(channels="BLOCK_CHANNELS", columns="GRAD_COLS", rows="GRAD_ROWS", warps="NUM_WARPS"),
        [(64, 2, 32, 1), (64, 2, 64, 1), (64, 2, 16, 1), (32, 4, 32, 1), (32, 4, 64, 1), (64, 4, 64, 2)],
    )
    tiles = named(
        layer_norm_kernels,
        dict(tile="TILE", warps="NUM_WARPS"),
        [(tile, warps) for tile in (2048, 1024, 4096) for warps in (4, 2, 8)],
    )
    return [
        Sweep(
            "attention forward", 4, window_attention, forward,
            lambda q, k, v, grad: [window_attention.window_attention_forward(q, k, v, *at)],
        ),
        Sweep(
            "attention backward", 7, window_attention, backward,
            lambda q, k, v, grad: window_attention.window_attention_backward(grad, q, k, v, *at),
        ),
        Sweep("token mean", 1, token_mean, mean, lambda q, k, v, grad: [token_mean.token_mean(v, C)]),
        Sweep(
            "depthwise_residual forward", 2, depthwise_kernels, strips,
            lambda q, k, v, grad: [depthwise_kernels.residual(weight, bias, v)],
        ),
        Sweep(
            "lepe_gate forward", 4, depthwise_kernels, strips,
            lambda q, k, v, grad: [depthwise_kernels.lepe_gate(weight, bias, v, grad, grad)],
        ),
        Sweep(
            "depthwise_residual backward", 3, depthwise_kernels, grad_strips,
            lambda q, k, v, grad: depthwise_kernels.backward(weight, v, grad, True),
        ),
        Sweep(
            "layer_norm forward", 2, layer_norm_kernels, tiles,
            lambda q, k, v, grad: [layer_norm_kernels.forward(v, bias, bias, 1e-5, v.dtype)],
        ),
        Sweep(
            "layer_norm backward", 3, layer_norm_kernels, tiles,
            lambda q, k, v, grad: layer_norm_kernels.backward(grad, v, bias, 1e-5),
        ),
    ]  # fmt: skip


def run_sweep(sweep: Sweep, shape: Tuple[int, int, int, int], report: Report, rounds: int) -> None:
    """Compare every candidate with the first that runs, then time those that agree with it, in bfloat16."""
    B, H, W, C = shape
    device, dtype = report.device, torch.bfloat16

    def maps(*shape: int) -> Tensor:
        return torch.randn(shape, dtype=dtype, device=device)

    size = B * H * W * C * dtype.itemsize
    # a block has q and k side by side in one map
    inputs = [(*maps(B, H, W, 2 * C).chunk(2, -1), maps(*shape), maps(*shape)) for _ in range(input_sets(size, device))]

    def call(constants: Constants, maps: Sequence[Tensor]) -> Sequence[Tensor]:
        with mock.patch.multiple(sweep.module, **constants):
            return sweep.run(*maps)

    calls: Dict[str, Sequence[Callable[[], object]]] = {}
    rows: Dict[str, Row] = {}
    expected: List[Tensor] = []
    for name, constants in sweep.candidates.items():
        row = Row("sweep", sweep.op, name, "x".join(map(str, shape)), str(dtype)[6:])
        try:
            actual = [t.float() for t in call(constants, inputs[0])]
            expected = expected or actual
            error = relative_error(actual, expected)
            row.note = f"differs from the first by {error:.1e}"
            if error <= LIMIT:
                calls[name], rows[name] = [partial(call, constants, maps) for maps in inputs], row
                continue
            row.note += f", above {LIMIT:.0e}: not timed"
        except Exception as error:
            row.note = f"FAILED: {reason(error)}"
        report.add(row)
    del expected
    for name, milliseconds in times(calls, device, rounds, graph=True).items():
        report.add(measured(rows[name], milliseconds, sweep.maps * size))


def sweep(report: Report) -> None:
    """All configurations at every shape; what fails is reported, the others go on."""
    for shape in SHAPES:
        for each in sweeps(*shape, report.device):
            if report.out_of_time():
                report.add(Row("sweep", "", "", "", "", note="the rest of this part was not run: out of time"))
                return
            try:
                run_sweep(each, shape, report, rounds=10)
            except Exception as error:
                report.add(Row("sweep", each.op, "", "x".join(map(str, shape)), "", note=f"FAILED: {reason(error)}"))
            torch.cuda.empty_cache()
