"""What those mixers share that attend over all tokens of a picture."""

import torch
from mmsema_kernels import apply_rope, expand_rope_table, rope_table
from torch import Tensor

from .base import Mixer


class Tokens:
    """The n = H * W tokens of each picture in a batch of maps (B, H, W, C): position, heads, mean."""

    def __init__(self, maps: Tensor, num_heads: int) -> None:
        B, H, W, C = maps.shape
        self.shape, self.device, self.num_heads, self.count = (B, H, W, C), maps.device, num_heads, H * W

    def rope(self, *maps: Tensor) -> list:
        """Rotate maps (B, H, W, C) by their tokens' place on the map."""
        _, H, W, C = self.shape
        cos_sin = expand_rope_table(rope_table(H + W, C, device=self.device), H, W)
        return [apply_rope(t, cos_sin) for t in maps]

    def split(self, *maps: Tensor) -> list:
        """(B, H, W, C) -> (B, heads, n, d) each."""
        B = self.shape[0]
        return [t.contiguous().reshape(B, self.count, self.num_heads, -1).transpose(1, 2) for t in maps]

    def merge(self, rows: Tensor) -> Tensor:
        """(B, heads, n, d) -> (B, H, W, C)."""
        return rows.transpose(1, 2).reshape(self.shape)

    def mean(self, rows: Tensor) -> Tensor:
        """(B, heads, n, d) -> (B, heads, 1, d)."""
        return rows.mean(2, keepdim=True)


class LinearAttention(Mixer):
    """A mixer whose cost is linear in n, as queries meet d x d sums of keys and values; ``window_size`` plays no part.

    It runs in float32 or wider, whatever the maps' dtype and autocast.
    """

    def attend(self, qk: Tensor, v: Tensor) -> Tensor:
        with torch.autocast(v.device.type, enabled=False):
            dtype = torch.promote_types(v.dtype, torch.float32)
            q, k = qk.to(dtype).chunk(2, dim=-1)
            return self.attend_all(q, k, v.to(dtype), Tokens(v, self.num_heads)).to(v.dtype)

    def attend_all(self, q: Tensor, k: Tensor, v: Tensor, tokens: Tokens) -> Tensor:
        """Maps (B, H, W, C), float32 or wider, before the feature map and RoPE -> (B, H, W, C)."""
        raise NotImplementedError
