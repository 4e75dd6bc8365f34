"""Focused linear attention (FLatten, arXiv 2308.00442)."""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .all_tokens import LinearAttention, Tokens

POWER = 3


class FocusedMixer(LinearAttention):
    """Focused linear attention (FLatten, arXiv 2308.00442): a feature map that turns q and k towards an axis each.

    With x = (relu(W x) + 1e-6) / softplus(t) for q and k alike, t learned for each channel, p = 3 and norms over all C
    channels, at 2 d^2 multiply-accumulates a token::

        f(x) = ||x|| x^p / ||x^p||,   q = f(W_q x),   k = f(W_k x)
        out_i = q_i (1/n sum_j k_j^T v_j) / (q_i . mean(k) + 1e-6) + conv(v)_i

    conv is a 5 x 5 depthwise convolution that the heads share. The authors add a learned position of fixed size to k;
    there is none here, so that maps may have any size, and no RoPE, which would make weights negative.
    """

    def __init__(self, channels: int, num_heads: int, window_size: int) -> None:
        super().__init__(channels, num_heads, window_size)
        d = channels // num_heads
        self.scale = nn.Parameter(torch.zeros(channels))  # t
        self.conv = nn.Conv2d(d, d, 5, padding=2, groups=d)

    def attend(self, qk: Tensor, v: Tensor, sizes: Optional[Tensor] = None) -> Tensor:
        weight, bias = (p.repeat(self.num_heads, *[1] * (p.ndim - 1)) for p in self.conv.parameters())
        conv = F.conv2d(v.permute(0, 3, 1, 2), weight, bias, padding=2, groups=v.shape[-1])
        return super().attend(qk, v, sizes) + conv.permute(0, 2, 3, 1)

    def attend_all(self, q: Tensor, k: Tensor, v: Tensor, tokens: Tokens) -> Tensor:
        scale = F.softplus(self.scale.to(v.dtype))
        q, k, v = tokens.split(self.focus((F.relu(q) + 1e-6) / scale), self.focus((F.relu(k) + 1e-6) / scale), v)
        norm = 1 / (q @ tokens.mean(k).transpose(-2, -1) + 1e-6)  # (B, heads, n, 1)
        return tokens.merge(q @ (k.transpose(-2, -1) @ v / tokens.count) * norm)

    @staticmethod
    def focus(x: Tensor) -> Tensor:
        """||x|| x^p / ||x^p||, of positive maps (..., C)."""
        unit = x / x.detach().amax(-1, keepdim=True)  # which leaves the direction of x^p, and no 1e-6 ** 3 in it
        return F.normalize(unit**POWER, dim=-1) * x.norm(dim=-1, keepdim=True)
