"""Triton kernels of the 3x3 depthwise convolutions of a block, forward and backward, straight on channels-last maps.

Every kernel walks down a strip of COLS columns and reads each row of it once, as three tiles of tokens: shifted by one
column to the left, as it is, and shifted to the right. A row takes part in three output rows, of which two are kept in
registers. The next row is loaded before the last one is stored, because the compiler moves no load past a store. Sums
run in float32 and are rounded once. There are no atomics: every program writes its own outputs and partial sums.
"""

from typing import Optional, Tuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Launcher
from .picture import picture
from .token_mean import token_sum

LOG2_E = tl.constexpr(1.4426950408889634)
# The fastest on an NVIDIA H200 of what docs/performance.md lists: a thread has 16 values of a tile in the forward
# kernels and 4 in the gradient kernel, which keeps ten sums of each in registers.
BLOCK_CHANNELS = 64
FORWARD_COLS, FORWARD_ROWS = 8, 16
GRAD_COLS, GRAD_ROWS = 2, 32  # tall strips, as each writes ten float32 sums per channel
NUM_WARPS = 1


@triton.jit
def _end_of_rows(sizes, top, end, left, h, w):
    """The row at which the picture leaves a strip of the rows top <= row < end: top where it has none of them."""
    if sizes is not None:
        end = tl.where(left < w, tl.maximum(tl.minimum(end, h), top), top)
    return end


@triton.jit
def _load_row(x, first, row, col, channel, h, w, W, C: tl.constexpr):
    """Tiles (COLS, BLOCK_C) of one row of the map at the columns col - 1, col and col + 1; 0 outside the picture."""
    x += (first + row * W.to(tl.int64)) * C + col[:, None] * C + channel[None, :]
    real = (row >= 0) & (row < h)
    left = tl.load(x - C, mask=(real & (col > 0) & (col <= w))[:, None], other=0.0)
    centre = tl.load(x, mask=(real & (col < w))[:, None], other=0.0)
    right = tl.load(x + C, mask=(real & (col + 1 < w))[:, None], other=0.0)
    return left, centre, right


@triton.jit
def _load_vector(x, dtype: tl.constexpr):
    """One value per channel, (1, BLOCK_C), rounded to the dtype of the maps as autocast would."""
    return tl.load(x).to(dtype).to(tl.float32)[None, :]


@triton.jit
def _load_taps(weight, channel, dtype: tl.constexpr):
    """Nine rows of weights, (1, BLOCK_C) each."""
    weight += channel * 9
    w0 = _load_vector(weight, dtype)
    w1 = _load_vector(weight + 1, dtype)
    w2 = _load_vector(weight + 2, dtype)
    w3 = _load_vector(weight + 3, dtype)
    w4 = _load_vector(weight + 4, dtype)
    w5 = _load_vector(weight + 5, dtype)
    w6 = _load_vector(weight + 6, dtype)
    w7 = _load_vector(weight + 7, dtype)
    w8 = _load_vector(weight + 8, dtype)
    return w0, w1, w2, w3, w4, w5, w6, w7, w8


@triton.jit
def _add_products(total, a, b, c, x, y, z):
    """total + a x + b y + c z as three fused multiply-adds."""
    return c.to(tl.float32) * z + (b.to(tl.float32) * y + (a.to(tl.float32) * x + total))


@triton.jit
def _sigmoid(x):
    return 1 / (1 + tl.exp2(x * -LOG2_E))


@triton.jit(do_not_specialize=["H", "W"])
def forward_kernel(
    x,
    weight,
    bias,
    sizes,
    attention,
    gate,
    grad,
    out,
    grad_gate,
    H,
    W,
    C: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    EPILOGUE: tl.constexpr,
):
    """The convolution z of x and what a block makes of it. All maps are (B, H, W, C), weight (C, 3, 3), bias (C).

    EPILOGUE says what is written::

        residual     out = x + z
        silu         out = silu(z)
        silu_grad    out = grad * silu'(z)
        gate         out = gate * (attention + z)
        gate_grad    out = grad * gate      grad_gate = grad * (attention + z)

    Maps that an epilogue does not name are None. sizes: None, or (B, 2), int32, the rows and columns of each picture,
    outside which inputs count as 0 and outputs are 0.
    Grid (C / BLOCK_C * strips in a row, strips in a column, B), channel blocks fastest. One program computes ROWS x
    COLS tokens of BLOCK_C channels.
    """
    BLOCKS: tl.constexpr = C // BLOCK_C
    dtype: tl.constexpr = x.dtype.element_ty
    channel = tl.program_id(0) % BLOCKS * BLOCK_C + tl.arange(0, BLOCK_C)
    col = tl.program_id(0) // BLOCKS * COLS + tl.arange(0, COLS)
    top = tl.program_id(1) * ROWS
    strip_end = tl.minimum(top + ROWS, H)
    first = tl.program_id(2).to(tl.int64) * H * W
    w0, w1, w2, w3, w4, w5, w6, w7, w8 = _load_taps(weight, channel, dtype)
    h, w = picture(sizes, H, W)  # here, and first in grad_kernel: elsewhere Hopper's code takes more registers
    end = _end_of_rows(sizes, top, strip_end, tl.program_id(0) // BLOCKS * COLS, h, w)
    b = _load_vector(bias + channel, dtype)
    if EPILOGUE == "residual":
        w4 += 1
    above = tl.zeros((COLS, BLOCK_C), tl.float32)  # rows row - 1 and row of z, as far as the rows before row make them
    here = tl.zeros((COLS, BLOCK_C), tl.float32)
    left, centre, right = _load_row(x, first, top - 1, col, channel, h, w, W, C)
    for row in range(top - 1, end + 1):
        next_left, next_centre, next_right = _load_row(x, first, row + 1, col, channel, h, w, W, C)
        offset = (first + (row - 1) * W.to(tl.int64)) * C + col[:, None] * C + channel[None, :]
        mask = ((row > top) & (col < W))[:, None]
        real = ((row > top) & (col < w))[:, None]
        if EPILOGUE == "gate" or EPILOGUE == "gate_grad":
            a = tl.load(attention + offset, mask=real, other=0.0).to(tl.float32)
            g = tl.load(gate + offset, mask=real, other=0.0).to(tl.float32)
        if EPILOGUE == "silu_grad" or EPILOGUE == "gate_grad":
            dout = tl.load(grad + offset, mask=real, other=0.0).to(tl.float32)

        z = _add_products(above, left, centre, right, w6, w7, w8)
        above = _add_products(here, left, centre, right, w3, w4, w5)
        here = _add_products(b, left, centre, right, w0, w1, w2)
        if EPILOGUE == "residual":
            y = z
        elif EPILOGUE == "silu":
            y = z * _sigmoid(z)
        elif EPILOGUE == "silu_grad":
            s = _sigmoid(z)
            y = dout * (s * (1 + z * (1 - s)))
        elif EPILOGUE == "gate":
            y = g * (a + z)
        else:
            y = dout * g
            dg = dout * (a + z)
            if sizes is not None:
                dg = tl.where(real, dg, 0.0)  # z may be infinite there: its left neighbour is in the picture
            tl.store(grad_gate + offset, dg.to(dtype), mask=mask)
        if sizes is not None:
            y = tl.where(real, y, 0.0)
        tl.store(out + offset, y.to(dtype), mask=mask)
        left, centre, right = next_left, next_centre, next_right
    if sizes is not None:
        zeros = tl.zeros((COLS, BLOCK_C), dtype)
        for row in range(end, strip_end):
            offset = (first + row * W.to(tl.int64)) * C + col[:, None] * C + channel[None, :]
            tl.store(out + offset, zeros, mask=(col < W)[:, None])
            if EPILOGUE == "gate_grad":
                tl.store(grad_gate + offset, zeros, mask=(col < W)[:, None])


@triton.jit
def _load_own_row(x, first, row, col, channel, top, end, w, W, C: tl.constexpr):
    """Tile (COLS, BLOCK_C) of one row of the picture; 0 unless the row is the strip's own, top <= row < end."""
    x += (first + row * W.to(tl.int64)) * C + col[:, None] * C + channel[None, :]
    return tl.load(x, mask=((row >= top) & (row < end) & (col < w))[:, None], other=0.0)


@triton.jit(do_not_specialize=["H", "W"])
def grad_kernel(
    grad,
    x,
    weight,
    sizes,
    grad_x,
    sums,
    H,
    W,
    C: tl.constexpr,
    BLOCK_C: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    RESIDUAL: tl.constexpr,
):
    """Gradients of the convolution (with RESIDUAL, of x + convolution) from the gradient of its output, (B, H, W, C).

    With taps w[i, j] and rows and columns counted from -1 at the tap's corner::

        grad_x[p]  = sum_ij w[i, j] grad[p - (i, j)]  [+ grad[p]]
        grad_w[i, j] = sum_p x[p] grad[p - (i, j)]          grad_bias = sum_p grad[p]

    where p runs over the picture, and in ``sums``, (strips, 10 * C), float32, over one strip: the nine taps of every
    channel, then the bias.
    sizes: None, or (B, 2), int32, the rows and columns of each picture, outside which grad_x is 0.
    Grid (C / BLOCK_C * strips in a row, strips in a column, B), channel blocks fastest. One program computes ROWS x
    COLS tokens of BLOCK_C channels.
    """
    h, w = picture(sizes, H, W)
    BLOCKS: tl.constexpr = C // BLOCK_C
    dtype: tl.constexpr = x.dtype.element_ty
    channel = tl.program_id(0) % BLOCKS * BLOCK_C + tl.arange(0, BLOCK_C)
    strip = tl.program_id(0) // BLOCKS
    col = strip * COLS + tl.arange(0, COLS)
    top = tl.program_id(1) * ROWS
    strip_end = tl.minimum(top + ROWS, H)
    end = _end_of_rows(sizes, top, strip_end, strip * COLS, h, w)
    first = tl.program_id(2).to(tl.int64) * H * W
    w0, w1, w2, w3, w4, w5, w6, w7, w8 = _load_taps(weight, channel, dtype)
    if RESIDUAL:
        w4 += 1
    zeros = tl.zeros((COLS, BLOCK_C), tl.float32)
    above, here = zeros, zeros  # rows row - 1 and row of grad_x, as far as the rows before row make them
    d0, d1, d2, d3, d4, d5, d6, d7, d8, db = zeros, zeros, zeros, zeros, zeros, zeros, zeros, zeros, zeros, zeros
    # Two tensors: of one, Triton (3.6) takes ``x_above = x_here`` below for no change and carries nothing.
    x_above = tl.zeros((COLS, BLOCK_C), tl.float32)
    x_here = tl.zeros((COLS, BLOCK_C), tl.float32)
    x_below = _load_own_row(x, first, top, col, channel, top, end, w, W, C)
    left, centre, right = _load_row(grad, first, top - 1, col, channel, h, w, W, C)
    for row in range(top - 1, end + 1):
        next_left, next_centre, next_right = _load_row(grad, first, row + 1, col, channel, h, w, W, C)
        next_below = _load_own_row(x, first, row + 2, col, channel, top, end, w, W, C)
        left, centre, right = left.to(tl.float32), centre.to(tl.float32), right.to(tl.float32)
        below = x_below.to(tl.float32)
        dx = _add_products(above, left, centre, right, w2, w1, w0)
        above = _add_products(here, left, centre, right, w5, w4, w3)
        here = right * w6 + (centre * w7 + left * w8)
        d0 += right * x_above
        d1 += centre * x_above
        d2 += left * x_above
        d3 += right * x_here
        d4 += centre * x_here
        d5 += left * x_here
        d6 += right * below
        d7 += centre * below
        d8 += left * below
        db += centre * ((row >= top) & (row < end)).to(tl.float32)
        offset = (first + (row - 1) * W.to(tl.int64)) * C + col[:, None] * C + channel[None, :]
        if sizes is not None:
            dx = tl.where((col < w)[:, None], dx, 0.0)
        tl.store(grad_x + offset, dx.to(dtype), mask=((row > top) & (col < W))[:, None])
        x_above, x_here, x_below = x_here, below, next_below
        left, centre, right = next_left, next_centre, next_right
    if sizes is not None:
        for row in range(end, strip_end):
            offset = (first + row * W.to(tl.int64)) * C + col[:, None] * C + channel[None, :]
            tl.store(grad_x + offset, tl.zeros((COLS, BLOCK_C), dtype), mask=(col < W)[:, None])
    strips = tl.num_programs(0) // BLOCKS
    sums += ((tl.program_id(2) * tl.num_programs(1) + tl.program_id(1)) * strips + strip).to(tl.int64) * (10 * C)
    taps = sums + channel * 9
    tl.store(taps, tl.sum(d0, 0))
    tl.store(taps + 1, tl.sum(d1, 0))
    tl.store(taps + 2, tl.sum(d2, 0))
    tl.store(taps + 3, tl.sum(d3, 0))
    tl.store(taps + 4, tl.sum(d4, 0))
    tl.store(taps + 5, tl.sum(d5, 0))
    tl.store(taps + 6, tl.sum(d6, 0))
    tl.store(taps + 7, tl.sum(d7, 0))
    tl.store(taps + 8, tl.sum(d8, 0))
    tl.store(sums + 9 * C + channel, tl.sum(db, 0))


def block_channels(C: int) -> int:
    """Channels of one program: the largest power of two that divides C, at most BLOCK_CHANNELS."""
    return min(C & -C, BLOCK_CHANNELS)


_launch_forward, _launch_grad = Launcher(forward_kernel), Launcher(grad_kernel)


def _forward(
    epilogue: str,
    weight: Tensor,
    bias: Tensor,
    x: Tensor,
    attention: Optional[Tensor] = None,
    gate: Optional[Tensor] = None,
    grad: Optional[Tensor] = None,
    sizes: Optional[Tensor] = None,
) -> Tuple[Tensor, Optional[Tensor]]:
    """Run :func:`forward_kernel` on maps (B, H, W, C), weight (C, 1, 3, 3) and bias (C): returns out and grad_gate."""
    B, H, W, C = x.shape
    out = x.new_empty((B, H, W, C))
    grad_gate = x.new_empty((B, H, W, C)) if epilogue == "gate_grad" else None
    if B == 0:
        return out, grad_gate
    sizes, attention, gate, grad = (None if t is None else t.contiguous() for t in (sizes, attention, gate, grad))
    block = block_channels(C)
    _launch_forward(
        (C // block * -(-W // FORWARD_COLS), -(-H // FORWARD_ROWS), B),
        (x.contiguous(), weight.contiguous(), bias.contiguous(), sizes, attention, gate, grad, out, grad_gate, H, W),
        (C, block, FORWARD_ROWS, FORWARD_COLS, epilogue),
        num_warps=NUM_WARPS,
    )
    return out, grad_gate


def residual(weight: Tensor, bias: Tensor, x: Tensor, sizes: Optional[Tensor] = None) -> Tensor:
    return _forward("residual", weight, bias, x, sizes=sizes)[0]


def silu(weight: Tensor, bias: Tensor, x: Tensor, sizes: Optional[Tensor] = None) -> Tensor:
    return _forward("silu", weight, bias, x, sizes=sizes)[0]


def silu_backward(weight: Tensor, bias: Tensor, x: Tensor, grad: Tensor, sizes: Optional[Tensor] = None) -> Tensor:
    """The gradient of the convolution from that of its silu."""
    return _forward("silu_grad", weight, bias, x, grad=grad, sizes=sizes)[0]


def lepe_gate(
    weight: Tensor, bias: Tensor, v: Tensor, attention: Tensor, gate: Tensor, sizes: Optional[Tensor] = None
) -> Tensor:
    return _forward("gate", weight, bias, v, attention, gate, sizes=sizes)[0]


def lepe_gate_backward(
    weight: Tensor,
    bias: Tensor,
    v: Tensor,
    attention: Tensor,
    gate: Tensor,
    grad: Tensor,
    sizes: Optional[Tensor] = None,
) -> Tuple[Tensor, Tensor]:
    """The gradients of the sum that is gated and of the gate."""
    return _forward("gate_grad", weight, bias, v, attention, gate, grad, sizes)  # type: ignore[return-value]


def backward(
    weight: Tensor, x: Tensor, grad: Tensor, residual: bool, sizes: Optional[Tensor] = None
) -> Tuple[Tensor, Tensor]:
    """grad, x: (B, H, W, C) -> gradient of x, (B, H, W, C), and of the weight and then the bias, (10 * C), float32."""
    B, H, W, C = x.shape
    grad_x = x.new_empty((B, H, W, C))
    if B == 0:
        return grad_x, x.new_zeros(10 * C, dtype=torch.float32)
    sizes = None if sizes is None else sizes.contiguous()
    block = block_channels(C)
    strips = -(-W // GRAD_COLS), -(-H // GRAD_ROWS)
    sums = x.new_empty((1, strips[0] * strips[1] * B, 1, 10 * C), dtype=torch.float32)
    _launch_grad(
        (C // block * strips[0], strips[1], B),
        (grad.contiguous(), x.contiguous(), weight.contiguous(), sizes, grad_x, sums, H, W),
        (C, block, GRAD_ROWS, GRAD_COLS, residual),
        num_warps=NUM_WARPS,
    )
    return grad_x, token_sum(sums)
