"""Mean of a map over its tokens in Triton: float32, deterministic, and independent of an image's batch mates."""

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK_TOKENS = 64
BLOCK_CHANNELS = 64
NUM_WARPS = 4  # no tl.dot here, so the limit of window_attention.py does not apply


@triton.jit(do_not_specialize=["tokens", "chunk"])
def mean_kernel(
    x,
    out,
    tokens,
    chunk,
    x_stride,
    factor,
    CHANNELS: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
):
    """``factor`` times the sums of x, (B, tokens, CHANNELS), over chunks of tokens: (B, chunks, CHANNELS), float32.

    Grid (channel blocks, chunks, B). One program sums the tokens of one chunk, in order, for BLOCK_CHANNELS channels.
    """
    batch = tl.program_id(2).to(tl.int64)
    start = tl.program_id(1) * chunk
    channel = tl.program_id(0) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    channel_ok = channel < CHANNELS
    x += (batch * tokens + start) * x_stride
    count = tl.minimum(chunk, tokens - start)
    total = tl.zeros((BLOCK_TOKENS, BLOCK_CHANNELS), tl.float32)
    for first in range(0, count, BLOCK_TOKENS):
        token = first + tl.arange(0, BLOCK_TOKENS)
        ok = (token < count)[:, None] & channel_ok[None, :]
        total += tl.load(x + token[:, None] * x_stride + channel[None, :], mask=ok, other=0.0).to(tl.float32)
    out += (batch * tl.num_programs(1) + tl.program_id(1)) * CHANNELS
    tl.store(out + channel, tl.sum(total, 0) * factor, mask=channel_ok)


def chunk_tokens(tokens: int) -> int:
    """Tokens one program sums, from H * W alone: about its root, so that both stages are short."""
    return max(256, triton.next_power_of_2(int(tokens**0.5)))


def token_mean(x: Tensor, x_stride: int) -> Tensor:
    """Mean over the tokens of a (B, H, W, C) map whose tokens lie ``x_stride`` elements apart -> (B, C), float32."""
    B, H, W, C = x.shape
    tokens = H * W
    chunk = chunk_tokens(tokens)
    chunks = triton.cdiv(tokens, chunk)

    def launch(x: Tensor, tokens: int, chunk: int, chunks: int, x_stride: int, factor: float) -> Tensor:
        out = torch.empty((B, chunks, C), dtype=torch.float32, device=x.device)
        grid = (triton.cdiv(C, BLOCK_CHANNELS), chunks, B)
        mean_kernel[grid](
            x, out, tokens, chunk, x_stride, factor, C, BLOCK_TOKENS, BLOCK_CHANNELS, num_warps=NUM_WARPS
        )  # fmt: skip
        return out

    if chunks == 1:
        return launch(x, tokens, chunk, 1, x_stride, 1 / tokens)[:, 0]
    sums = launch(x, tokens, chunk, chunks, x_stride, 1.0)
    return launch(sums, chunks, chunks, 1, C, 1 / tokens)[:, 0]
