"""Triton kernels of SEMA attention, forward and backward, straight on channels-last maps.

A map is a (B, H, W, C) tensor of which token t, counted over batch, rows and columns, starts at ``t * stride``; one stride per
map, so a map may be one half of a packed (B, H, W, 2C) projection. Nothing is partitioned, padded or copied. One program owns
whole windows, so no program waits for another and no sum is made with atomics: results are the same at every run.
See README.md for the derivation and for what has been verified.
"""

from typing import Optional, Tuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .token_mean import token_mean

LOG2_E = tl.constexpr(1.4426950408889634)

# One warp has 32 lanes; a (64, 32) tile on two of them is 32 values a thread. Chosen by counting the instructions, registers
# and spills of compiled kernels (tests/kernels/compiled_kernels.csv), not by timing.
NUM_WARPS = 2
MAX_HEADS_PER_PROGRAM = 2  # forward only: the address arithmetic is shared between heads


@triton.jit
def _locate(H, W, PROGRAMS: tl.constexpr, WINDOW: tl.constexpr, TOKENS: tl.constexpr, EVEN: tl.constexpr):
    """The program's window: map index of its first token (int64), row, column and existence of each of its TOKENS slots."""
    top = tl.program_id(1) * WINDOW
    left = tl.program_id(0) // PROGRAMS * WINDOW
    first = (tl.program_id(2).to(tl.int64) * H + top) * W + left
    slot = tl.arange(0, TOKENS)
    row = slot // WINDOW
    col = slot % WINDOW
    real = slot < WINDOW * WINDOW
    if not EVEN:
        real = real & (row < H - top) & (col < W - left)
    return first, row, col, real


@triton.jit
def _angles(rope, row, col, head, HEADS: tl.constexpr, D: tl.constexpr, WINDOW: tl.constexpr):
    """Cosines and sines of one head's channel pairs at the window's tokens, (TOKENS, D/2) each, float32.

    The first C/4 pairs of all C channels turn with the row, the others with the column; a head may hold both kinds.
    """
    QUARTER: tl.constexpr = HEADS * D // 4
    pair = head * (D // 2) + tl.arange(0, D // 2)
    by_row = (pair < QUARTER)[None, :]
    row = tl.minimum(row, WINDOW - 1)  # the slots past w * w have rows past the table's end
    position = tl.where(by_row, row[:, None], col[:, None])
    index = position * QUARTER + tl.where(by_row, pair[None, :], pair[None, :] - QUARTER)
    return tl.load(rope + index), tl.load(rope + WINDOW * QUARTER + index)


@triton.jit
def _rotate(x, cos, sin):
    """Turn the neighbouring channel pairs of x (TOKENS, D), in float32."""
    even, odd = tl.split(tl.reshape(x.to(tl.float32), (x.shape[0], x.shape[1] // 2, 2)))
    return tl.interleave(even * cos - odd * sin, even * sin + odd * cos)


@triton.jit(do_not_specialize=["H", "W"])
def forward_kernel(
    q,
    k,
    v,
    mean,
    rope,
    out,
    H,
    W,
    q_stride,
    k_stride,
    v_stride,
    scale,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    WINDOW: tl.constexpr,
    TOKENS: tl.constexpr,
    HEADS_PER_PROGRAM: tl.constexpr,
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """out = softmax(scale * q k^T) v + mean, per window and head; q and k turned by ``rope`` unless that is None.

    q, k, v: maps of C = HEADS * D channels. mean: (B, C), float32. rope: (2, WINDOW, C/4), float32. out: (B, H, W, C).
    Grid (HEADS / HEADS_PER_PROGRAM * windows in a row, windows in a column, B), heads fastest: neighbouring programs read the
    same cache lines. One program computes HEADS_PER_PROGRAM heads of one window, a tile of (TOKENS, D) each.
    """
    PROGRAMS: tl.constexpr = HEADS // HEADS_PER_PROGRAM
    first, row, col, real = _locate(H, W, PROGRAMS, WINDOW, TOKENS, EVEN)
    token = row * W + col
    q += first * q_stride
    k += first * k_stride
    v += first * v_stride
    out += first * (HEADS * D)
    mean += tl.program_id(2) * (HEADS * D)
    for i in tl.static_range(HEADS_PER_PROGRAM):
        head = tl.program_id(0) % PROGRAMS * HEADS_PER_PROGRAM + i
        channel = head * D + tl.arange(0, D)
        qt = tl.load(q + token[:, None] * q_stride + channel[None, :], mask=real[:, None], other=0.0)
        kt = tl.load(k + token[:, None] * k_stride + channel[None, :], mask=real[:, None], other=0.0)
        vt = tl.load(v + token[:, None] * v_stride + channel[None, :], mask=real[:, None], other=0.0)
        if rope is not None:
            cos, sin = _angles(rope, row, col, head, HEADS, D, WINDOW)
            qt = _rotate(qt, cos, sin).to(qt.dtype)
            kt = _rotate(kt, cos, sin).to(kt.dtype)
        s = tl.dot(qt, tl.trans(kt), input_precision=PRECISION)
        s = tl.where(real[None, :], s, float("-inf"))
        s_max = tl.max(s, 1) * (scale * LOG2_E)
        p = tl.exp2(s * (scale * LOG2_E) - s_max[:, None])
        o = tl.dot(p.to(vt.dtype), vt, input_precision=PRECISION) / tl.sum(p, 1)[:, None]
        o += tl.load(mean + channel)[None, :]
        tl.store(out + token[:, None] * (HEADS * D) + channel[None, :], o.to(vt.dtype), mask=real[:, None])


@triton.jit(do_not_specialize=["H", "W"])
def backward_kernel(
    q,
    k,
    v,
    grad,
    grad_mean,
    rope,
    grad_qk,
    grad_v,
    H,
    W,
    q_stride,
    k_stride,
    v_stride,
    grad_stride,
    scale,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    WINDOW: tl.constexpr,
    TOKENS: tl.constexpr,
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Gradients of :func:`forward_kernel` from q, k, v and the gradient of its output; the weights are computed again.

    grad_mean: (B, C), float32, the mean of ``grad`` over all tokens. grad_qk: (B, H, W, 2C), the gradient of q in its first
    C channels and of k in the others. grad_v: (B, H, W, C).
    Grid (HEADS * windows in a row, windows in a column, B), heads fastest. One program computes one head of one window::

        P = softmax(scale * Q K^T)      dP = dO V^T      delta_i = sum_j P_ij dP_ij      dS = scale * P * (dP - delta)
        dQ = dS K      dK = dS^T Q      dV = P^T dO + mean(dO)
    """
    C: tl.constexpr = HEADS * D
    first, row, col, real = _locate(H, W, HEADS, WINDOW, TOKENS, EVEN)
    token = row * W + col
    head = tl.program_id(0) % HEADS
    channel = head * D + tl.arange(0, D)
    mask = real[:, None]
    qt = tl.load(q + first * q_stride + token[:, None] * q_stride + channel[None, :], mask=mask, other=0.0)
    kt = tl.load(k + first * k_stride + token[:, None] * k_stride + channel[None, :], mask=mask, other=0.0)
    vt = tl.load(v + first * v_stride + token[:, None] * v_stride + channel[None, :], mask=mask, other=0.0)
    gt = tl.load(grad + first * grad_stride + token[:, None] * grad_stride + channel[None, :], mask=mask, other=0.0)
    if rope is not None:
        cos, sin = _angles(rope, row, col, head, HEADS, D, WINDOW)
        qt = _rotate(qt, cos, sin).to(qt.dtype)
        kt = _rotate(kt, cos, sin).to(kt.dtype)
    s = tl.dot(qt, tl.trans(kt), input_precision=PRECISION)
    s = tl.where(real[None, :], s, float("-inf"))
    s_max = tl.max(s, 1) * (scale * LOG2_E)
    p = tl.exp2(s * (scale * LOG2_E) - s_max[:, None])
    p = p * (1 / tl.sum(p, 1))[:, None]
    dv = tl.dot(tl.trans(p.to(gt.dtype)), gt, input_precision=PRECISION)
    dv += tl.load(grad_mean + tl.program_id(2) * C + channel)[None, :]
    tl.store(grad_v + first * C + token[:, None] * C + channel[None, :], dv.to(vt.dtype), mask=mask)
    dp = tl.dot(gt, tl.trans(vt), input_precision=PRECISION)
    delta = tl.sum(p * dp, 1)
    ds = (p * (dp * scale - (delta * scale)[:, None])).to(qt.dtype)
    dq = tl.dot(ds, kt, input_precision=PRECISION)
    dk = tl.dot(tl.trans(ds), qt, input_precision=PRECISION)
    if rope is not None:
        dq = _rotate(dq, cos, -sin)
        dk = _rotate(dk, cos, -sin)
    grad_qk += first * (2 * C) + token[:, None] * (2 * C) + channel[None, :]
    tl.store(grad_qk, dq.to(qt.dtype), mask=mask)
    tl.store(grad_qk + C, dk.to(kt.dtype), mask=mask)


def tile_tokens(window_size: int) -> int:
    """Rows of a window's tile: w * w rounded up to a power of two, at least the 16 that tl.dot needs."""
    return max(16, triton.next_power_of_2(window_size**2))


def heads_per_program(num_heads: int) -> int:
    return MAX_HEADS_PER_PROGRAM if num_heads % MAX_HEADS_PER_PROGRAM == 0 else 1


def dot_precision(dtype: torch.dtype) -> str:
    """How tl.dot treats float32: TF32 where PyTorch's own matrix products may, else three TF32 products (near float32)."""
    matmul = torch.backends.cuda.matmul
    # the older attribute raises once the newer one has been set
    tf32 = matmul.fp32_precision == "tf32" if hasattr(matmul, "fp32_precision") else matmul.allow_tf32
    return "tf32" if tf32 or dtype != torch.float32 else "tf32x3"


def check_num_warps(num_warps: int, device: torch.device) -> None:
    """Refuse four warps and more on Hopper, where tl.dot becomes wgmma.

    Triton 3.4 to 3.7 miscompile ``dot(trans(P), dO)`` under wgmma into wrong gradients, silently.
    """
    if num_warps >= 4 and device.type == "cuda" and torch.cuda.get_device_capability(device) == (9, 0):
        raise RuntimeError(
            f"window attention must run with num_warps 1 or 2 on compute capability 9.0, got {num_warps}: with 4 or more, "
            "Triton 3.4 to 3.7 compile it into silently wrong gradients"
        )


def _as_tokens(x: Tensor) -> Tuple[Tensor, int]:
    """A (B, H, W, C) map whose tokens lie one stride apart, and that stride; copied where its strides allow no such view."""
    B, H, W, C = x.shape
    stride = next((x.stride(i) for i, n in ((2, W), (1, H), (0, B)) if n > 1), C)  # for W = 1 the rows are a token apart
    expected = (H * W * stride, W * stride, stride, 1)
    if all(n == 1 or s == e for n, s, e in zip(x.shape, x.stride(), expected, strict=True)) and C <= stride <= 2 * C:
        return x, stride
    return x.contiguous(), C


def _shape_arguments(v: Tensor, num_heads: int, window_size: int) -> dict:
    _, H, W, C = v.shape
    return dict(
        HEADS=num_heads,
        D=C // num_heads,
        WINDOW=window_size,
        TOKENS=tile_tokens(window_size),
        EVEN=H % window_size == 0 and W % window_size == 0,
        PRECISION=dot_precision(v.dtype),
        num_warps=NUM_WARPS,
    )


def window_attention_forward(
    q: Tensor, k: Tensor, v: Tensor, rope: Optional[Tensor], num_heads: int, window_size: int, scale: float
) -> Tensor:
    """q, k, v: (B, H, W, C) -> (B, H, W, C), contiguous."""
    B, H, W, C = v.shape
    out = v.new_empty((B, H, W, C))
    if B == 0:
        return out
    check_num_warps(NUM_WARPS, v.device)
    (q, q_stride), (k, k_stride), (v, v_stride) = _as_tokens(q), _as_tokens(k), _as_tokens(v)
    heads = heads_per_program(num_heads)
    grid = (num_heads // heads * triton.cdiv(W, window_size), triton.cdiv(H, window_size), B)
    with torch.cuda.device_of(v):
        mean = token_mean(v, v_stride)
        forward_kernel[grid](
            q, k, v, mean, rope, out, H, W, q_stride, k_stride, v_stride, scale,
            HEADS_PER_PROGRAM=heads, **_shape_arguments(v, num_heads, window_size),
        )  # fmt: skip
    return out


def window_attention_backward(
    q: Tensor, k: Tensor, v: Tensor, rope: Optional[Tensor], grad: Tensor, num_heads: int, window_size: int, scale: float
) -> Tuple[Tensor, Tensor]:
    """grad, q, k, v: (B, H, W, C) -> gradient of q and k side by side, (B, H, W, 2C), and of v, (B, H, W, C)."""
    B, H, W, C = v.shape
    grad_qk, grad_v = v.new_empty((B, H, W, 2 * C)), v.new_empty((B, H, W, C))
    if B == 0:
        return grad_qk, grad_v
    check_num_warps(NUM_WARPS, v.device)
    (q, q_stride), (k, k_stride), (v, v_stride) = _as_tokens(q), _as_tokens(k), _as_tokens(v)
    grad, grad_stride = _as_tokens(grad)
    grid = (num_heads * triton.cdiv(W, window_size), triton.cdiv(H, window_size), B)
    with torch.cuda.device_of(v):
        grad_mean = token_mean(grad, grad_stride)
        backward_kernel[grid](
            q, k, v, grad, grad_mean, rope, grad_qk, grad_v, H, W, q_stride, k_stride, v_stride, grad_stride, scale,
            **_shape_arguments(v, num_heads, window_size),
        )  # fmt: skip
    return grad_qk, grad_v
