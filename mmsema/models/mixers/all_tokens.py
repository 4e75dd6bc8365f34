"""What those mixers share that attend over all tokens of a picture."""

from typing import Optional

import torch
from mmsema_kernels import apply_rope, count_tokens, expand_rope_table, real_tokens, rope_table
from mmsema_kernels.launch import autocast_off
from torch import Tensor

from .base import Mixer


class Tokens:
    """The tokens of each picture in a batch of maps (B, H, W, C): position, heads, number, mean.

    With ``sizes``, see :class:`Mixer`, those outside the pictures stay in the rows, and what sums over rows leaves them
    out: ``count`` is n, H * W or (B, 1, 1, 1), and ``real`` tells which rows are tokens, (B, 1, n, 1), or is None.
    """

    def __init__(self, maps: Tensor, num_heads: int, sizes: Optional[Tensor] = None) -> None:
        B, H, W, C = maps.shape
        self.shape, self.device, self.num_heads = (B, H, W, C), maps.device, num_heads
        self.count = count_tokens(maps, sizes)
        self.real = None if sizes is None else real_tokens(sizes, H, W).reshape(B, 1, H * W, 1)

    def rope(self, *maps: Tensor) -> list:
        """Rotate maps (B, H, W, C) by their tokens' place on the map."""
        _, H, W, C = self.shape
        cos_sin = expand_rope_table(rope_table(H + W, C, device=self.device), H, W)
        return [apply_rope(t, cos_sin) for t in maps]

    def split(self, *maps: Tensor) -> list:
        """(B, H, W, C) -> (B, heads, n, d) each."""
        B, H, W, _ = self.shape
        rows = (t.contiguous().reshape(B, H * W, t.shape[-1]) for t in maps)
        return [t.unflatten(-1, (self.num_heads, t.shape[-1] // self.num_heads)).transpose(1, 2) for t in rows]

    def merge(self, rows: Tensor) -> Tensor:
        """(B, heads, n, d) -> (B, H, W, C)."""
        return rows.transpose(1, 2).reshape(self.shape)

    def fill(self, rows: Tensor, value: float) -> Tensor:
        """(B, heads, n, d), with ``value`` in the rows that are no tokens."""
        return rows if self.real is None else rows.masked_fill(~self.real, value)

    def mean(self, rows: Tensor) -> Tensor:
        """(B, heads, n, d) -> (B, heads, 1, d)."""
        return self.fill(rows, 0).sum(2, keepdim=True) / self.count


class LinearAttention(Mixer):
    """A mixer whose cost is linear in n, as queries meet d x d sums of keys and values; ``window_size`` plays no part.

    It runs in float32 or wider, whatever the maps' dtype and autocast.
    """

    def attend(self, qk: Tensor, v: Tensor, sizes: Optional[Tensor] = None) -> Tensor:
        with autocast_off(v.device.type):
            dtype = torch.promote_types(v.dtype, torch.float32)
            q, k = qk.to(dtype).chunk(2, dim=-1)
            return self.attend_all(q, k, v.to(dtype), Tokens(v, self.num_heads, sizes)).to(v.dtype)

    def attend_all(self, q: Tensor, k: Tensor, v: Tensor, tokens: Tokens) -> Tensor:
        """Maps (B, H, W, C), float32 or wider, before the feature map and RoPE -> (B, H, W, C).

        v is 0 outside the pictures, so that sums of keys and values need no care.
        """
        raise NotImplementedError
