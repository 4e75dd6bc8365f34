"""Triton kernels of SEMA attention, forward and backward, straight on channels-last maps.

A map is a (B, H, W, C) tensor of which token t, counted over batch, rows and columns, starts at ``t * stride``; one
stride per map, so a map may be one half of a packed (B, H, W, 2C) projection. Nothing is partitioned, padded or copied.
One program owns whole windows, so no program waits for another and no sum is made with atomics: results are the same at
every run. See README.md for the derivation and for what has been verified, window_attention.py for the launches.
"""

import triton
import triton.language as tl

from .picture import picture

LOG2_E = tl.constexpr(1.4426950408889634)
LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _slots(WINDOW: tl.constexpr, TOKENS: tl.constexpr):
    """Row and column in a window of each of a tile's TOKENS slots, and whether there is such a token."""
    slot = tl.arange(0, TOKENS)
    return slot // WINDOW, slot % WINDOW, slot < WINDOW * WINDOW


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


@triton.jit
def _dot_pairs(a, even, odd, PRECISION: tl.constexpr):
    """``a`` times the even and the odd channels, (TOKENS, D/2) each."""
    if even.shape[1] < 16:  # before Triton 3.5 tl.dot gives 16 columns or more
        x = tl.dot(a, tl.interleave(even, odd), input_precision=PRECISION)
        even, odd = tl.split(tl.reshape(x, (x.shape[0], x.shape[1] // 2, 2)))
    else:
        even = tl.dot(a, even, input_precision=PRECISION)
        odd = tl.dot(a, odd, input_precision=PRECISION)
    return even, odd


@triton.jit
def _forward_window(
    q,
    k,
    v,
    mean,
    rope,
    out,
    real,
    row,
    col,
    head,
    scale,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    WINDOW: tl.constexpr,
    TOKENS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One head of the window whose tiles, (TOKENS, D) each, the maps' pointers point to; ``real`` slots."""
    cos, sin = _angles(rope, scale, row, col, head, HEADS, D, WINDOW, TOKENS)
    q_even, q_odd = _load_turned(q, real, cos, sin)
    k_even, k_odd = _load_turned(k, real, cos, sin)
    vt = tl.load(v, mask=real[:, None], other=0.0)
    p, total = _weights(q_even, q_odd, k_even, k_odd, real, PRECISION)
    o = tl.dot(p.to(vt.dtype), vt, input_precision=PRECISION) * (1 / total)[:, None]
    if mean is not None:
        o += tl.load(mean + head * D + tl.arange(0, D))[None, :]
    tl.store(out, o.to(vt.dtype), mask=real[:, None])


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
    EVEN: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """out = softmax(scale * q k^T) v + mean, per window and head; q and k turned by ``rope`` unless that is None.

    q, k, v: maps of C = HEADS * D channels. mean: (B, C), float32, or None to add none. rope: (2, WINDOW, C/4), fp32.
    out: (B, H, W, C). sizes: None, or (B, 2), int32, the rows and columns of each picture, outside which out is 0.
    Grid (HEADS * windows in a row, windows in a column, B), heads fastest: neighbouring programs read the same cache
    lines. One program computes one head of one window, a tile of (TOKENS, D). Most windows are whole: these run without
    the masks of ragged ones, all of them if EVEN says that windows divide the map.
    """
    C: tl.constexpr = HEADS * D
    top = tl.program_id(1) * WINDOW
    left = tl.program_id(0) // HEADS * WINDOW
    head = tl.program_id(0) % HEADS
    first = (tl.program_id(2).to(tl.int64) * H + top) * W + left
    row, col, slots = _slots(WINDOW, TOKENS)
    token = (row * W + col)[:, None]
    channel = (head * D + tl.arange(0, D))[None, :]
    h, w = picture(sizes, H, W)
    q += first * q_stride + token * q_stride + channel
    k += first * k_stride + token * k_stride + channel
    v += first * v_stride + token * v_stride + channel
    out += first * C + token * C + channel
    if mean is not None:
        mean += tl.program_id(2) * C
    if EVEN and sizes is None:  # noqa: SIM114, as Triton has no "or" of a constexpr and a number
        _forward_window(
            q, k, v, mean, rope, out, slots, row, col, head, scale, HEADS, D, WINDOW, TOKENS, PRECISION
        )  # fmt: skip
    elif (top + WINDOW <= h) & (left + WINDOW <= w):
        _forward_window(
            q, k, v, mean, rope, out, slots, row, col, head, scale, HEADS, D, WINDOW, TOKENS, PRECISION
        )  # fmt: skip
    else:
        real = slots & (row < h - top) & (col < w - left)
        if sizes is not None:
            outside = (slots & (row < H - top) & (col < W - left) & ~real)[:, None]
            tl.store(out, tl.zeros((TOKENS, D), out.dtype.element_ty), mask=outside)
        if (top < h) & (left < w):  # the window has tokens of the picture
            _forward_window(
                q, k, v, mean, rope, out, real, row, col, head, scale, HEADS, D, WINDOW, TOKENS, PRECISION
            )  # fmt: skip


@triton.jit
def _backward_window(
    q,
    k,
    v,
    grad,
    grad_mean,
    rope,
    grad_qk,
    grad_v,
    real,
    row,
    col,
    head,
    scale,
    HEADS: tl.constexpr,
    D: tl.constexpr,
    WINDOW: tl.constexpr,
    TOKENS: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """One head of the window whose tiles, (TOKENS, D) each, the maps' pointers point to; ``real`` slots."""
    C: tl.constexpr = HEADS * D
    mask = real[:, None]
    cos, sin = _angles(rope, scale, row, col, head, HEADS, D, WINDOW, TOKENS)
    q_even, q_odd = _load_turned(q, real, cos, sin)
    k_even, k_odd = _load_turned(k, real, cos, sin)
    gt = tl.load(grad, mask=mask, other=0.0)

    p, total = _weights(q_even, q_odd, k_even, k_odd, real, PRECISION)
    p *= (1 / total)[:, None]
    dv = tl.dot(tl.trans(p.to(gt.dtype)), gt, input_precision=PRECISION)
    if grad_mean is not None:
        dv += tl.load(grad_mean + head * D + tl.arange(0, D))[None, :]
    tl.store(grad_v, dv.to(gt.dtype), mask=mask)

    vt = tl.load(v, mask=mask, other=0.0)  # as late as this, for the registers' sake
    dp = tl.dot(gt, tl.trans(vt), input_precision=PRECISION)
    delta = tl.sum(p * dp, 1)
    # q and k carry sqrt(scale * log2(e)), and so do cos and sin, which turn dq and dk back: ln(2) leaves the scale
    ds = (p * (dp * LN_2 - (delta * LN_2)[:, None])).to(gt.dtype)
    dst = tl.trans(ds)
    cos, sin = _angles(rope, scale, row, col, head, HEADS, D, WINDOW, TOKENS)  # again, likewise
    even, odd = _dot_pairs(ds, k_even, k_odd, PRECISION)
    even, odd = _turn(even, odd, cos, -sin)
    tl.store(grad_qk, tl.interleave(even, odd).to(gt.dtype), mask=mask)
    even, odd = _dot_pairs(dst, q_even, q_odd, PRECISION)
    even, odd = _turn(even, odd, cos, -sin)
    tl.store(grad_qk + C, tl.interleave(even, odd).to(gt.dtype), mask=mask)


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
    top = tl.program_id(1) * WINDOW
    left = tl.program_id(0) // HEADS * WINDOW
    head = tl.program_id(0) % HEADS
    first = (tl.program_id(2).to(tl.int64) * H + top) * W + left
    row, col, slots = _slots(WINDOW, TOKENS)
    token = (row * W + col)[:, None]
    channel = (head * D + tl.arange(0, D))[None, :]
    h, w = picture(sizes, H, W)
    q += first * q_stride + token * q_stride + channel
    k += first * k_stride + token * k_stride + channel
    v += first * v_stride + token * v_stride + channel
    grad += first * grad_stride + token * grad_stride + channel
    grad_qk += first * (2 * C) + token * (2 * C) + channel
    grad_v += first * C + token * C + channel
    if grad_mean is not None:
        grad_mean += tl.program_id(2) * C
    if EVEN and sizes is None:  # noqa: SIM114, as Triton has no "or" of a constexpr and a number
        _backward_window(
            q, k, v, grad, grad_mean, rope, grad_qk, grad_v, slots, row, col, head, scale,
            HEADS, D, WINDOW, TOKENS, PRECISION,
        )  # fmt: skip
    elif (top + WINDOW <= h) & (left + WINDOW <= w):
        _backward_window(
            q, k, v, grad, grad_mean, rope, grad_qk, grad_v, slots, row, col, head, scale,
            HEADS, D, WINDOW, TOKENS, PRECISION,
        )  # fmt: skip
    else:
        real = slots & (row < h - top) & (col < w - left)
        if sizes is not None:
            outside = (slots & (row < H - top) & (col < W - left) & ~real)[:, None]
            zeros = tl.zeros((TOKENS, D), grad_v.dtype.element_ty)
            tl.store(grad_qk, zeros, mask=outside)
            tl.store(grad_qk + C, zeros, mask=outside)
            tl.store(grad_v, zeros, mask=outside)
        if (top < h) & (left < w):
            _backward_window(
                q, k, v, grad, grad_mean, rope, grad_qk, grad_v, real, row, col, head, scale,
                HEADS, D, WINDOW, TOKENS, PRECISION,
            )  # fmt: skip
