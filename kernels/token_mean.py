"""Mean of a map over its tokens in Triton: float32, deterministic, and independent of an image's batch mates."""

from typing import Optional

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import Launcher

BLOCK_TOKENS = 16
BLOCK_CHANNELS = 64
NUM_WARPS = 4  # no tl.dot here, so the limit of window_attention.py does not apply


@triton.jit(do_not_specialize=["tokens", "chunk", "W"])
def mean_kernel(
    x,
    sizes,
    out,
    tokens,
    chunk,
    W,
    x_stride,
    factor,
    CHANNELS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    MASK: tl.constexpr,
    DIVIDE: tl.constexpr,
):
    """``factor`` times the sums of x, (B, tokens, CHANNELS), over chunks of tokens: (B, chunks, CHANNELS), float32.

    With sizes, (B, 2), and MASK the tokens are those of maps of W columns, of which h rows and w columns count; with
    DIVIDE the sums are divided by h * w.
    Grid (channel blocks, chunks, B). One program sums the tokens of one chunk, in order, for BLOCK_CHANNELS channels.
    """
    batch = tl.program_id(2).to(tl.int64)
    start = tl.program_id(1) * chunk
    channel = tl.program_id(0) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    channel_ok = channel < CHANNELS
    x += (batch * tokens + start) * x_stride
    if sizes is not None:
        h = tl.load(sizes + 2 * batch)
        w = tl.load(sizes + 2 * batch + 1)
    if MASK:
        tokens = tl.minimum(h * W, tokens)  # sizes beyond the map read nothing beyond it
    count = tl.minimum(chunk, tokens - start)  # below 0 for a chunk past the picture's last row
    total = tl.zeros((BLOCK_TOKENS, BLOCK_CHANNELS), tl.float32)
    for first in range(0, count, BLOCK_TOKENS):
        token = first + tl.arange(0, BLOCK_TOKENS)
        real = token < count
        if MASK:
            real = real & ((start + token) % W < w)
        ok = real[:, None] & channel_ok[None, :]
        total += tl.load(x + token[:, None] * x_stride + channel[None, :], mask=ok, other=0.0).to(tl.float32)
    out += (batch * tl.num_programs(1) + tl.program_id(1)) * CHANNELS
    mean = tl.sum(total, 0) * factor
    if DIVIDE:
        mean = mean / (h * w).to(tl.float32)
    tl.store(out + channel, mean, mask=channel_ok)


_launch = Launcher(mean_kernel)


def chunk_tokens(tokens: int) -> int:
    """Tokens one program sums, from H * W alone: about its root, so that both stages are short."""
    return max(256, triton.next_power_of_2(int(tokens**0.5)))


def _sum(x: Tensor, x_stride: int, sizes: Optional[Tensor], factor: float) -> Tensor:
    """``factor`` times the sum over a map's tokens, with sizes over those of each picture divided by their number."""
    B, H, W, C = x.shape
    chunk = chunk_tokens(H * W)
    chunks = -(-H * W // chunk)

    def launch(x: Tensor, tokens: int, chunk: int, chunks: int, x_stride: int, first: bool, last: bool) -> Tensor:
        sized = sizes is not None
        out = torch.empty((B, chunks, C), dtype=torch.float32, device=x.device)
        _launch(
            (-(-C // BLOCK_CHANNELS), chunks, B),
            (x, sizes, out, tokens, chunk, W, x_stride, factor if last else 1.0),
            (C, BLOCK_TOKENS, BLOCK_CHANNELS, sized and first, sized and last),
            num_warps=NUM_WARPS,
        )
        return out

    if chunks == 1:
        return launch(x, H * W, chunk, 1, x_stride, True, True)[:, 0]
    sums = launch(x, H * W, chunk, chunks, x_stride, True, False)
    return launch(sums, chunks, chunks, 1, C, False, True)[:, 0]


def token_mean(x: Tensor, x_stride: int, sizes: Optional[Tensor] = None) -> Tensor:
    """Mean over the tokens of a (B, H, W, C) map whose tokens lie ``x_stride`` elements apart -> (B, C), float32.

    With sizes, (B, 2), int32, contiguous, over the (h, w) tokens of each picture.
    """
    return _sum(x, x_stride, sizes, 1 / (x.shape[1] * x.shape[2]) if sizes is None else 1.0)


def token_sum(x: Tensor) -> Tensor:
    """Sum of the tokens of one contiguous map, (1, H, W, C) -> (C), float32."""
    return _sum(x, x.shape[-1], None, 1.0)[0]
