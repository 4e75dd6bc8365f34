"""Injective linear attention (InLine, arXiv 2412.06590)."""

from typing import Optional

import torch
import torch.nn.functional as F
from mmsema_kernels import mean_tokens
from mmsema_kernels.launch import is_exporting
from torch import Tensor, nn

from .all_tokens import LinearAttention, Tokens


class InLineMixer(LinearAttention):
    """Injective linear attention (InLine, arXiv 2412.06590), with the identity as feature map.

    With s = d ** -0.5, per head, at 2 d^2 multiply-accumulates a token::

        out_i = q_i (s/n sum_j k_j^T v_j) + (1 - s q_i . mean(k)) mean(v) + local_i

    The weights of a token sum to one and may be negative; queries that differ give weights that differ, unlike with
    linear attention. local is a 3 x 3 depthwise convolution of v whose kernels a small network makes for every picture
    from its mean token. No RoPE, as in the authors' models.
    """

    def __init__(self, channels: int, num_heads: int, window_size: int) -> None:
        super().__init__(channels, num_heads, window_size)
        self.local_kernel = nn.Sequential(
            nn.Conv1d(channels, channels, 1, groups=num_heads),
            nn.GELU(),
            nn.Conv1d(channels, 9 * channels, 1, groups=num_heads),
        )

    def attend(self, qk: Tensor, v: Tensor, sizes: Optional[Tensor] = None) -> Tensor:
        B, _, _, C = v.shape
        mean = mean_tokens(v, sizes).to(v.dtype).reshape(B, C, 1)
        kernels = self.local_kernel(mean).view(B, C, 3, 3)
        return super().attend(qk, v, sizes) + self.convolve(v, kernels)

    def attend_all(self, q: Tensor, k: Tensor, v: Tensor, tokens: Tokens) -> Tensor:
        q, k, v = tokens.split(q, k, v)
        q = q * v.shape[-1] ** -0.5
        rest = 1 - q @ tokens.mean(k).transpose(-2, -1)  # (B, heads, n, 1)
        return tokens.merge(q @ (k.transpose(-2, -1) @ v / tokens.count) + rest * tokens.mean(v))

    @staticmethod
    def convolve(v: Tensor, kernels: Tensor) -> Tensor:
        """3 x 3 depthwise convolution of a map (B, H, W, C), each picture with its own kernels (B, C, 3, 3)."""
        B, H, W, C = v.shape
        if is_exporting() or not B:  # the batch size may not stand among a convolution's arguments: nine shifted maps
            around = F.pad(v, (0, 0, 1, 1, 1, 1))
            taps = kernels.permute(2, 3, 0, 1)[:, :, :, None, None]  # (3, 3, B, 1, 1, C)
            shifted = [taps[i, j] * around[:, i : i + H, j : j + W] for i in range(3) for j in range(3)]
            return torch.stack(shifted).sum(0)
        maps = v.permute(0, 3, 1, 2).reshape(1, B * C, H, W)
        out = F.conv2d(maps, kernels.reshape(B * C, 1, 3, 3), padding=1, groups=B * C)
        return out.view(B, C, H, W).permute(0, 2, 3, 1)
