"""What SEMA may add to window attention in the mean's place (arXiv 2506.08297 leaves it open)."""

from typing import Optional

import torch
from mmsema_kernels import mean_tokens, real_tokens
from mmsema_kernels.launch import autocast_off
from torch import Tensor, nn


def _fill(x: Tensor, sizes: Optional[Tensor], value: float) -> Tensor:
    """A map (B, H, W, C) with ``value`` outside the pictures."""
    return x if sizes is None else x.masked_fill(~real_tokens(sizes, *x.shape[1:3])[..., None], value)


class Maximum(nn.Module):
    """The largest value of every channel."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()

    def forward(self, qk: Tensor, v: Tensor, sizes: Optional[Tensor] = None) -> Tensor:
        """(B, H, W, 2C) and (B, H, W, C) -> (B, 1, 1, C)."""
        return _fill(v, sizes, -torch.inf).amax((1, 2), keepdim=True)


class WeightedMean(nn.Module):
    """sum_j softmax_j(d ** -0.5 u . k_j) v_j with one learned query u per head, k before RoPE. Starts as the mean."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(num_heads, channels // num_heads))

    def forward(self, qk: Tensor, v: Tensor, sizes: Optional[Tensor] = None) -> Tensor:
        """(B, H, W, 2C) and (B, H, W, C) -> (B, 1, 1, C)."""
        B, H, W, C = v.shape
        heads, d = self.query.shape
        with autocast_off(v.device.type):
            dtype = torch.promote_types(v.dtype, torch.float32)
            k, values = (t.to(dtype).reshape(B, H * W, heads, d) for t in (qk[..., C:], v))
            scores = (k * self.query.to(dtype)).sum(-1).mul(d**-0.5).view(B, H, W, heads)
            weights = _fill(scores, sizes, -torch.inf).flatten(1, 2).softmax(1)  # (B, n, heads)
            return (weights[..., None] * values).sum(1).reshape(B, 1, 1, C)


class ScaledMean(nn.Module):
    """The mean times a learned number, which starts at 1."""

    def __init__(self, channels: int, num_heads: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(1))

    def forward(self, qk: Tensor, v: Tensor, sizes: Optional[Tensor] = None) -> Tensor:
        """(B, H, W, 2C) and (B, H, W, C) -> (B, 1, 1, C)."""
        return mean_tokens(v, sizes) * self.factor


# "mean" is the operator's own, which its kernels add
AVERAGES = dict(mean=None, none=None, max=Maximum, weighted=WeightedMean, scaled=ScaledMean)
