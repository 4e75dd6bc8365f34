"""SEMA with one part taken out or changed, for comparison only: what each part does is a question, not an option.

Importing this file adds them to what ``SEMA(mixer=...)`` accepts. In a config::

    custom_imports = dict(imports=["mmsema.analysis.ablations"], allow_failed_imports=False)
    model = dict(backbone=dict(mixer="sema_no_rope"))
"""

from typing import Optional

import torch
from mmsema_kernels import zero_outside
from torch import Tensor

from ..models.mixers import MIXERS, SEMAMixer


class WithoutRope(SEMAMixer):
    """q and k are not rotated: inside a window, attention does not know where its tokens are."""

    def __init__(self, channels: int, num_heads: int, window_size: int) -> None:
        super().__init__(channels, num_heads, window_size)
        self.rope = None


class WithoutLepe(SEMAMixer):
    """No depthwise convolution of the values beside attention: ``gate * attend(x)``."""

    def __init__(self, channels: int, num_heads: int, window_size: int) -> None:
        super().__init__(channels, num_heads, window_size)
        del self.lepe

    def forward(self, x: Tensor, gate: Tensor, sizes: Optional[Tensor] = None) -> Tensor:
        """(B, H, W, C) each -> (B, H, W, C), 0 outside the pictures."""
        return zero_outside(gate * self.attend(self.qk_proj(x), x, sizes), sizes)


class WithoutGate(SEMAMixer):
    """No gate: ``attend(x) + LePE(x)``. The block still has the gate's projection, whose parameters get no gradient:
    training in several processes needs ``find_unused_parameters=True``.
    """

    def forward(self, x: Tensor, gate: Tensor, sizes: Optional[Tensor] = None) -> Tensor:
        """(B, H, W, C) each -> (B, H, W, C), 0 outside the pictures."""
        return super().forward(x, torch.ones_like(gate), sizes)


class Unscaled(SEMAMixer):
    """Scores q . k as they are, not divided by the root of d."""

    scale = 1.0


class ScaledByDimension(SEMAMixer):
    """Scores divided by d instead of its root."""

    def __init__(self, channels: int, num_heads: int, window_size: int) -> None:
        super().__init__(channels, num_heads, window_size)
        self.scale = num_heads / channels


MIXERS.update(
    sema_no_rope=WithoutRope,
    sema_no_lepe=WithoutLepe,
    sema_no_gate=WithoutGate,
    sema_scale_1=Unscaled,
    sema_scale_d=ScaledByDimension,
)
