"""Triton kernels of LayerNorm: a program normalises several tokens at once, as most maps have few channels.

Sums run in float32 and are rounded once. There are no atomics: every program writes its own partial sums, whose number
depends on the number of tokens alone.
"""

from typing import Tuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Launcher
from .token_mean import token_sum

TILE = 2048  # numbers of a program's tile
NUM_WARPS = 4
PROGRAMS = 512  # at least as many backward programs as this, where there are so many tiles


@triton.jit
def _load(x, token, channel, tokens, C: tl.constexpr):
    """A (ROWS, BLOCK_C) tile in float32, 0 where there is no token or channel."""
    mask = (token < tokens)[:, None] & (channel < C)[None, :]
    return tl.load(x + token.to(tl.int64)[:, None] * C + channel[None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def _normalised(x, channel, eps, C: tl.constexpr):
    """(x - mean) / sqrt(var + eps), 0 past the last channel, and 1 / sqrt(var + eps), (ROWS, 1)."""
    centred = tl.where((channel < C)[None, :], x - (tl.sum(x, 1) / C)[:, None], 0.0)
    rstd = tl.rsqrt(tl.sum(centred * centred, 1) / C + eps)[:, None]
    return centred * rstd, rstd


@triton.jit(do_not_specialize=["tokens"])
def forward_kernel(x, weight, bias, out, tokens, eps, C: tl.constexpr, ROWS: tl.constexpr, BLOCK_C: tl.constexpr):
    """out = normalised(x) * weight + bias; x and out are (tokens, C). Grid (tiles of ROWS tokens)."""
    channel = tl.arange(0, BLOCK_C)
    token = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    y, _ = _normalised(_load(x, token, channel, tokens, C), channel, eps, C)
    w = tl.load(weight + channel, mask=channel < C, other=0.0).to(tl.float32)
    b = tl.load(bias + channel, mask=channel < C, other=0.0).to(tl.float32)
    y = y * w[None, :] + b[None, :]
    mask = (token < tokens)[:, None] & (channel < C)[None, :]
    tl.store(out + token.to(tl.int64)[:, None] * C + channel[None, :], y.to(out.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["tokens", "tiles"])
def backward_kernel(
    grad,
    x,
    weight,
    grad_x,
    sums,
    tokens,
    tiles,
    eps,
    C: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Gradients from that of the output, with n = normalised(x) and g = grad * weight::

        grad_x = (g - mean(g) - n * mean(g * n)) / sqrt(var + eps)
        grad_weight = sum(grad * n)      grad_bias = sum(grad)

    grad, x and grad_x are (tokens, C). sums: (programs, 2 * C), float32, the sums over each program's tokens, the
    weight's first. Grid (programs): each walks over ``tiles`` tiles of ROWS tokens.
    """
    channel = tl.arange(0, BLOCK_C)
    w = tl.load(weight + channel, mask=channel < C, other=0.0).to(tl.float32)
    to_weight = tl.zeros((ROWS, BLOCK_C), tl.float32)
    to_bias = tl.zeros((ROWS, BLOCK_C), tl.float32)
    for tile in range(tiles):
        token = (tl.program_id(0) * tiles + tile) * ROWS + tl.arange(0, ROWS)
        n, rstd = _normalised(_load(x, token, channel, tokens, C), channel, eps, C)
        dy = _load(grad, token, channel, tokens, C)
        to_weight += dy * n
        to_bias += dy
        g = dy * w[None, :]
        dx = (g - (tl.sum(g, 1) / C)[:, None] - n * (tl.sum(g * n, 1) / C)[:, None]) * rstd
        mask = (token < tokens)[:, None] & (channel < C)[None, :]
        tl.store(grad_x + token.to(tl.int64)[:, None] * C + channel[None, :], dx.to(grad_x.dtype.element_ty), mask=mask)
    sums += tl.program_id(0).to(tl.int64) * (2 * C) + channel
    tl.store(sums, tl.sum(to_weight, 0), mask=channel < C)
    tl.store(sums + C, tl.sum(to_bias, 0), mask=channel < C)


_launch_forward, _launch_backward = Launcher(forward_kernel), Launcher(backward_kernel)


def tile_shape(C: int) -> Tuple[int, int]:
    """Tokens and channels of a tile: all channels, filled up to a power of two, of as many tokens as fit in TILE."""
    block = 1 << (C - 1).bit_length()
    return max(1, TILE // block), block


def forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """(..., C) -> (..., C), contiguous, of ``dtype``."""
    C = x.shape[-1]
    out = x.new_empty(x.shape, dtype=dtype)
    tokens = x.numel() // C
    if tokens:
        rows, block = tile_shape(C)
        arguments = (x.contiguous(), weight.contiguous(), bias.contiguous(), out, tokens, eps)
        _launch_forward((-(-tokens // rows), 1, 1), arguments, (C, rows, block), num_warps=NUM_WARPS)
    return out


def backward(grad: Tensor, x: Tensor, weight: Tensor, eps: float) -> Tuple[Tensor, Tensor]:
    """Gradient of x, (..., C), contiguous, and of weight and then bias, (2 * C), float32."""
    C = x.shape[-1]
    grad_x = x.new_empty(x.shape)
    tokens = x.numel() // C
    if not tokens:
        return grad_x, x.new_zeros(2 * C, dtype=torch.float32)
    rows, block = tile_shape(C)
    tiles = max(1, -(-tokens // rows) // PROGRAMS)
    programs = -(-tokens // (rows * tiles))
    sums = x.new_empty((1, programs, 1, 2 * C), dtype=torch.float32)
    arguments = (grad.contiguous(), x.contiguous(), weight.contiguous(), grad_x, sums, tokens, tiles, eps)
    _launch_backward((programs, 1, 1), arguments, (C, rows, block), num_warps=NUM_WARPS)
    return grad_x, token_sum(sums)
