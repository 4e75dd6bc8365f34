"""Triton kernels of SEMA attention, forward and backward, straight on channels-last maps.

A map is a (B, H, W, C) tensor of which token t, counted over batch, rows and columns, starts at ``t * stride``; one
stride per map, so a map may be one half of a packed (B, H, W, 2C) projection. Nothing is partitioned, padded or copied.
One program owns whole windows, so no program waits for another and no sum is made with atomics: results are the same at
every run. See README.md for the derivation and for what has been verified.
"""

from typing import Optional, Tuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .token_mean import token_mean

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)

# Chosen by counting instructions, registers and spills of compiled kernels (tests/kernels/compiled_kernels.csv), not by
# timing: (major compute capability, head dim) -> warps of a backward program. All others, and the forward, take two.
NUM_WARPS = 2
BACKWARD_WARPS = {(8, 64): 4}
# (bytes of a number, head dim) -> heads of one forward program; two share the address arithmetic where registers allow
# it. The backward takes one head. float32 with 64 channels is absent: it spills most of what it computes.
FORWARD_HEADS = {(2, 16): 2, (2, 32): 2, (2, 64): 1, (4, 16): 1, (4, 32): 1}


@triton.jit
def _locate(sizes, H, W, PROGRAMS: tl.constexpr, WINDOW: tl.constexpr, TOKENS: tl.constexpr, EVEN: tl.constexpr):
    """The program's window: map index of its first token, int64; row, column and existence of its TOKENS slots.

    With sizes, (B, 2), those exist that are the picture's. Last: which are the map's and not the picture's.
    """
    top = tl.program_id(1) * WINDOW
    left = tl.program_id(0) // PROGRAMS * WINDOW
    first = (tl.program_id(2).to(tl.int64) * H + top) * W + left
    slot = tl.arange(0, TOKENS)
    row = slot // WINDOW
    col = slot % WINDOW
    real = slot < WINDOW * WINDOW
    if not EVEN:
        real = real & (row < H - top) & (col < W - left)
    outside = real
    if sizes is not None:
        h = tl.load(sizes + 2 * tl.program_id(2))
        w = tl.load(sizes + 2 * tl.program_id(2) + 1)
        inside = (row < h - top) & (col < w - left)
        outside = real & ~inside
        real = real & inside
    return first, row, col, real, outside


@triton.jit
def _is_outside(sizes, PROGRAMS: tl.constexpr, WINDOW: tl.constexpr):
    """Whether the program's window has no token of the picture."""
    h = tl.load(sizes + 2 * tl.program_id(2))
    w = tl.load(sizes + 2 * tl.program_id(2) + 1)
    return (tl.program_id(1) * WINDOW >= h) | (tl.program_id(0) // PROGRAMS * WINDOW >= w)


@triton.jit
def _angles(
    rope, scale, row, col, head, HEADS: tl.constexpr, D: tl.constexpr, WINDOW: tl.constexpr, TOKENS: tl.constexpr
):
    """Cosines and sines of one head's channel pairs at the window's tokens, (TOKENS, D/2) each, float32.

    The first C/4 pairs of all C channels turn with the row, the others with the column; a head may hold both kinds.
    Both are multiplied by sqrt(scale * log2(e)): the scores of q and k turned with them are ready for exp2. (A factor
    known at run time also keeps the compiler from turning q and k again in every layout that a product wants them in.)
    """
    root = tl.sqrt_rn(scale * LOG2_E)
    if rope is None:
        cos = tl.zeros((TOKENS, D // 2), tl.float32) + root
        sin = tl.zeros((TOKENS, D // 2), tl.float32)
    else:
        QUARTER: tl.constexpr = HEADS * D // 4
        pair = head * (D // 2) + tl.arange(0, D // 2)
        by_row = (pair < QUARTER)[None, :]
        row = tl.minimum(row, WINDOW - 1)  # the slots past w * w have rows past the table's end
        position = tl.where(by_row, row[:, None], col[:, None])
        index = position * QUARTER + tl.where(by_row, pair[None, :], pair[None, :] - QUARTER)
        cos = tl.load(rope + index) * root
        sin = tl.load(rope + WINDOW * QUARTER + index) * root
    return cos, sin


@triton.jit
def _turn(even, odd, cos, sin):
    """Rotate channel pairs, given as the even and the odd channels, (TOKENS, D/2) each."""
    return even * cos - odd * sin, even * sin + odd * cos


@triton.jit
def _load_turned(x, real, cos, sin):
    """Load a (TOKENS, D) tile of q or k and turn it in float32: even and odd channels apart, (TOKENS, D/2) each."""
    x = tl.load(x, mask=real[:, None], other=0.0)
    even, odd = tl.split(tl.reshape(x, (x.shape[0], x.shape[1] // 2, 2)))
    even, odd = _turn(even.to(tl.float32), odd.to(tl.float32), cos, sin)
    return even.to(x.dtype), odd.to(x.dtype)


@triton.jit
def _weights(q_even, q_odd, k_even, k_odd, real, PRECISION: tl.constexpr):
    """exp2(q k^T - row maximum), (TOKENS, TOKENS), and its row sums. Columns without a token are 0.

    The order of the channels does not matter to q k^T, so even and odd ones are never put together again.
    """
    if q_even.shape[1] < 16:  # tl.dot sums over 16 channels or more
        q, k = tl.interleave(q_even, q_odd), tl.interleave(k_even, k_odd)
        s = tl.dot(q, tl.trans(k), input_precision=PRECISION)
    else:
        s = tl.dot(q_even, tl.trans(k_even), input_precision=PRECISION)
        s = tl.dot(q_odd, tl.trans(k_odd), s, input_precision=PRECISION)
    s = tl.where(real[None, :], s, float("-inf"))
    p = tl.exp2(s - tl.max(s, 1)[:, None])
    return p, tl.sum(p, 1)


@triton.jit(do_not_specialize=["H", "W"])
def forward_kernel(
    q,
    k,
    v,
    mean,
    rope,
    sizes,
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

    q, k, v: maps of C = HEADS * D channels. mean: (B, C), float32, or None to add none. rope: (2, WINDOW, C/4), fp32.
    out: (B, H, W, C). sizes: None, or (B, 2), int32, the rows and columns of each picture, outside which out is 0.
    Grid (HEADS / HEADS_PER_PROGRAM * windows in a row, windows in a column, B), heads fastest: neighbouring programs
    read the same cache lines. One program computes HEADS_PER_PROGRAM heads of one window, a tile of (TOKENS, D) each.
    """
    PROGRAMS: tl.constexpr = HEADS // HEADS_PER_PROGRAM
    first, row, col, real, outside = _locate(sizes, H, W, PROGRAMS, WINDOW, TOKENS, EVEN)
    token = row * W + col
    q += first * q_stride
    k += first * k_stride
    v += first * v_stride
    out += first * (HEADS * D)
    if sizes is not None:
        channels = tl.program_id(0) % PROGRAMS * (HEADS_PER_PROGRAM * D) + tl.arange(0, HEADS_PER_PROGRAM * D)
        zeros = tl.zeros((TOKENS, HEADS_PER_PROGRAM * D), out.dtype.element_ty)
        tl.store(out + token[:, None] * (HEADS * D) + channels[None, :], zeros, mask=outside[:, None])
        if _is_outside(sizes, PROGRAMS, WINDOW):
            return
    if mean is not None:
        mean += tl.program_id(2) * (HEADS * D)
    for i in tl.static_range(HEADS_PER_PROGRAM):
        head = tl.program_id(0) % PROGRAMS * HEADS_PER_PROGRAM + i
        channel = head * D + tl.arange(0, D)
        cos, sin = _angles(rope, scale, row, col, head, HEADS, D, WINDOW, TOKENS)
        q_even, q_odd = _load_turned(q + token[:, None] * q_stride + channel[None, :], real, cos, sin)
        k_even, k_odd = _load_turned(k + token[:, None] * k_stride + channel[None, :], real, cos, sin)
        vt = tl.load(v + token[:, None] * v_stride + channel[None, :], mask=real[:, None], other=0.0)
        p, total = _weights(q_even, q_odd, k_even, k_odd, real, PRECISION)
        o = tl.dot(p.to(vt.dtype), vt, input_precision=PRECISION) * (1 / total)[:, None]
        if mean is not None:
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
    sizes,
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

    grad_mean: (B, C), float32, the mean of ``grad`` over all tokens, or None where no mean was added. grad_qk:
    (B, H, W, 2C), the gradient of q in its first C channels and of k in the others. grad_v: (B, H, W, C). sizes: as
    there; outside, gradients are not read, and written as 0.
    Grid (HEADS * windows in a row, windows in a column, B), heads fastest. One program computes one head of one
    window::

        P = softmax(scale * Q K^T)      dP = dO V^T      delta_i = sum_j P_ij dP_ij      dS = scale * P * (dP - delta)
        dQ = dS K      dK = dS^T Q      dV = P^T dO + mean(dO)
    """
    C: tl.constexpr = HEADS * D
    first, row, col, real, outside = _locate(sizes, H, W, HEADS, WINDOW, TOKENS, EVEN)
    token = row * W + col
    head = tl.program_id(0) % HEADS
    channel = head * D + tl.arange(0, D)
    mask = real[:, None]
    if sizes is not None:
        zeros = tl.zeros((TOKENS, D), grad_v.dtype.element_ty)
        outside_qk = grad_qk + first * (2 * C) + token[:, None] * (2 * C) + channel[None, :]
        tl.store(outside_qk, zeros, mask=outside[:, None])
        tl.store(outside_qk + C, zeros, mask=outside[:, None])
        tl.store(grad_v + first * C + token[:, None] * C + channel[None, :], zeros, mask=outside[:, None])
        if _is_outside(sizes, HEADS, WINDOW):
            return
    q += first * q_stride + token[:, None] * q_stride + channel[None, :]
    k += first * k_stride + token[:, None] * k_stride + channel[None, :]
    v += first * v_stride + token[:, None] * v_stride + channel[None, :]
    grad += first * grad_stride + token[:, None] * grad_stride + channel[None, :]
    cos, sin = _angles(rope, scale, row, col, head, HEADS, D, WINDOW, TOKENS)
    q_even, q_odd = _load_turned(q, real, cos, sin)
    k_even, k_odd = _load_turned(k, real, cos, sin)
    gt = tl.load(grad, mask=mask, other=0.0)

    p, total = _weights(q_even, q_odd, k_even, k_odd, real, PRECISION)
    p *= (1 / total)[:, None]
    dv = tl.dot(tl.trans(p.to(gt.dtype)), gt, input_precision=PRECISION)
    if grad_mean is not None:
        dv += tl.load(grad_mean + tl.program_id(2) * C + channel)[None, :]
    tl.store(grad_v + first * C + token[:, None] * C + channel[None, :], dv.to(gt.dtype), mask=mask)

    vt = tl.load(v, mask=mask, other=0.0)  # as late as this, for the registers' sake
    dp = tl.dot(gt, tl.trans(vt), input_precision=PRECISION)
    delta = tl.sum(p * dp, 1)
    # q and k carry sqrt(scale * log2(e)), and so do cos and sin, which turn dq and dk back: ln(2) leaves the scale
    ds = (p * (dp * LN_2 - (delta * LN_2)[:, None])).to(gt.dtype)
    dst = tl.trans(ds)
    cos, sin = _angles(rope, scale, row, col, head, HEADS, D, WINDOW, TOKENS)  # again, likewise
    grad_qk += first * (2 * C) + token[:, None] * (2 * C) + channel[None, :]
    even = tl.dot(ds, k_even, input_precision=PRECISION)
    odd = tl.dot(ds, k_odd, input_precision=PRECISION)
    even, odd = _turn(even, odd, cos, -sin)
    tl.store(grad_qk, tl.interleave(even, odd).to(gt.dtype), mask=mask)
    even = tl.dot(dst, q_even, input_precision=PRECISION)
    odd = tl.dot(dst, q_odd, input_precision=PRECISION)
    even, odd = _turn(even, odd, cos, -sin)
    tl.store(grad_qk + C, tl.interleave(even, odd).to(gt.dtype), mask=mask)


def tile_tokens(window_size: int) -> int:
    """Rows of a window's tile: w * w rounded up to a power of two, at least the 16 that tl.dot needs."""
    return max(16, triton.next_power_of_2(window_size**2))


def forward_heads(dtype: torch.dtype, num_heads: int, d: int) -> int:
    """Heads of one forward program: as FORWARD_HEADS says where that divides ``num_heads``, else one."""
    heads = FORWARD_HEADS[dtype.itemsize, d]
    return heads if num_heads % heads == 0 else 1


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


def _capability(device: torch.device) -> Tuple[int, int]:
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)  # of the interpreter


def _as_tokens(x: Tensor) -> Tuple[Tensor, int]:
    """A (B, H, W, C) map whose tokens lie one stride apart, and that stride; a copy where x has no such stride."""
    B, H, W, C = x.shape
    stride = next(
        (x.stride(i) for i, n in ((2, W), (1, H), (0, B)) if n > 1), C
    )  # for W = 1 the rows are a token apart
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
    )


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
    sizes = None if sizes is None else sizes.contiguous()
    num_warps = check_num_warps(NUM_WARPS, _capability(v.device))
    heads = forward_heads(v.dtype, num_heads, C // num_heads)
    grid = (num_heads // heads * triton.cdiv(W, window_size), triton.cdiv(H, window_size), B)
    with torch.cuda.device_of(v):
        means = token_mean(v, v_stride, sizes) if mean else None
        forward_kernel[grid](
            q, k, v, means, rope, sizes, out, H, W, q_stride, k_stride, v_stride, scale,
            HEADS_PER_PROGRAM=heads, num_warps=num_warps, **_shape_arguments(v, num_heads, window_size),
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
    sizes = None if sizes is None else sizes.contiguous()
    num_warps = backward_warps(_capability(v.device), C // num_heads)
    grid = (num_heads * triton.cdiv(W, window_size), triton.cdiv(H, window_size), B)
    with torch.cuda.device_of(v):
        grad_mean = token_mean(grad, grad_stride, sizes) if mean else None
        backward_kernel[grid](
            q, k, v, grad, grad_mean, rope, sizes, grad_qk, grad_v,
            H, W, q_stride, k_stride, v_stride, grad_stride, scale,
            num_warps=num_warps, **_shape_arguments(v, num_heads, window_size),
        )  # fmt: skip
    return grad_qk, grad_v
