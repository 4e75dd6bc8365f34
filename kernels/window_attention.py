"""Launches of the kernels in window_attention_kernels.py: their tiles, warps and registers, and the maps they take."""

from functools import cache
from typing import Optional, Tuple

import torch
from torch import Tensor

from .launch import Launcher
from .token_mean import token_mean
from .window_attention_kernels import backward_kernel, forward_kernel

# Warps of a program; (major compute capability, head dim) -> warps of a backward one. By counting instructions,
# registers and spills of compiled kernels (tests/kernels/compiled_kernels.csv) and, with 32 channels on 9.0, by timing.
NUM_WARPS = 2
BACKWARD_WARPS = {(8, 64): 4}
# (head dim, window size) -> registers a thread of the forward may use in 16 bits: with fewer, more programs run.
# The fastest on an NVIDIA H200 of what docs/performance.md lists; 72 and less are spilled too often.
FORWARD_REGISTERS = {(32, 7): 80}


def tile_tokens(window_size: int) -> int:
    """Rows of a window's tile: w * w rounded up to a power of two, at least the 16 that tl.dot needs."""
    return max(16, 1 << (window_size**2 - 1).bit_length())


def forward_registers(dtype: torch.dtype, d: int, window_size: int) -> Optional[int]:
    return FORWARD_REGISTERS.get((d, window_size)) if dtype.itemsize == 2 else None


def dot_precision(dtype: torch.dtype) -> str:
    """How tl.dot treats float32: in TF32 where PyTorch's products may, else as three TF32 products (near float32)."""
    matmul = torch.backends.cuda.matmul
    # the older attribute raises once the newer one has been set
    tf32 = matmul.fp32_precision == "tf32" if hasattr(matmul, "fp32_precision") else matmul.allow_tf32
    return "tf32" if tf32 or dtype != torch.float32 else "tf32x3"


def check_num_warps(num_warps: int, capability: Tuple[int, int]) -> int:
    """``num_warps``, refused from four on Hopper, where tl.dot becomes wgmma.

    Triton 3.4 to 3.7 miscompile ``dot(trans(P), dO)`` under wgmma into wrong gradients, silently.
    """
    if num_warps >= 4 and capability == (9, 0):
        raise RuntimeError(
            f"window attention must run with num_warps 1 or 2 on compute capability 9.0, got {num_warps}: "
            "with 4 or more, Triton 3.4 to 3.7 compile it into silently wrong gradients"
        )
    return num_warps


def backward_warps(capability: Tuple[int, int], d: int) -> int:
    return check_num_warps(BACKWARD_WARPS.get((capability[0], d), NUM_WARPS), capability)


@cache
def _capability(device: torch.device) -> Tuple[int, int]:
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)  # of the interpreter


def _as_tokens(x: Tensor) -> Tuple[Tensor, int]:
    """A (B, H, W, C) map whose tokens lie one stride apart, and that stride; a copy where x has no such stride."""
    B, H, W, C = x.shape
    stride = x.stride(2)
    if x.stride() == (H * W * stride, W * stride, stride, 1) and C <= stride <= 2 * C:
        return x, stride
    stride = next(
        (x.stride(i) for i, n in ((2, W), (1, H), (0, B)) if n > 1), C
    )  # for W = 1 the rows are a token apart
    expected = (H * W * stride, W * stride, stride, 1)
    if all(n == 1 or s == e for n, s, e in zip(x.shape, x.stride(), expected, strict=True)) and C <= stride <= 2 * C:
        return x, stride
    return x.contiguous(), C


_launch_forward, _launch_backward = Launcher(forward_kernel), Launcher(backward_kernel)


def _constants(v: Tensor, num_heads: int, window_size: int) -> tuple:
    """HEADS, D, WINDOW, TOKENS, EVEN and PRECISION of both kernels."""
    _, H, W, C = v.shape
    even = H % window_size == 0 and W % window_size == 0
    return num_heads, C // num_heads, window_size, tile_tokens(window_size), even, dot_precision(v.dtype)


def window_attention_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rope: Optional[Tensor],
    num_heads: int,
    window_size: int,
    scale: float,
    mean: bool,
    sizes: Optional[Tensor] = None,
) -> Tensor:
    """q, k, v: (B, H, W, C) -> (B, H, W, C), contiguous. sizes: None or (B, 2), int32."""
    B, H, W, C = v.shape
    out = v.new_empty((B, H, W, C))
    if B == 0:
        return out
    (q, q_stride), (k, k_stride), (v, v_stride) = _as_tokens(q), _as_tokens(k), _as_tokens(v)
    rope, sizes = (None if t is None else t.contiguous() for t in (rope, sizes))
    _launch_forward(
        (num_heads * -(-W // window_size), -(-H // window_size), B),
        (
            q, k, v, token_mean(v, v_stride, sizes) if mean else None, rope, sizes, out,
            H, W, q_stride, k_stride, v_stride, scale,
        ),
        _constants(v, num_heads, window_size),
        num_warps=check_num_warps(NUM_WARPS, _capability(v.device)),
        maxnreg=forward_registers(v.dtype, C // num_heads, window_size),
    )  # fmt: skip
    return out


def window_attention_backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rope: Optional[Tensor],
    num_heads: int,
    window_size: int,
    scale: float,
    mean: bool,
    sizes: Optional[Tensor] = None,
) -> Tuple[Tensor, Tensor]:
    """grad, q, k, v: (B, H, W, C) -> gradient of q and k side by side, (B, H, W, 2C), and of v, (B, H, W, C)."""
    B, H, W, C = v.shape
    grad_qk, grad_v = v.new_empty((B, H, W, 2 * C)), v.new_empty((B, H, W, C))
    if B == 0:
        return grad_qk, grad_v
    (q, q_stride), (k, k_stride), (v, v_stride) = _as_tokens(q), _as_tokens(k), _as_tokens(v)
    grad, grad_stride = _as_tokens(grad)
    rope, sizes = (None if t is None else t.contiguous() for t in (rope, sizes))
    _launch_backward(
        (num_heads * -(-W // window_size), -(-H // window_size), B),
        (
            q, k, v, grad, token_mean(grad, grad_stride, sizes) if mean else None, rope, sizes, grad_qk, grad_v,
            H, W, q_stride, k_stride, v_stride, grad_stride, scale,
        ),
        _constants(v, num_heads, window_size),
        num_warps=backward_warps(_capability(v.device), C // num_heads),
    )  # fmt: skip
    return grad_qk, grad_v
