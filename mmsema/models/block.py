"""The Mamba-like block that SEMA keeps from MILA, on channels-last maps."""

from typing import Callable, Optional

import torch.nn.functional as F
from mmsema_kernels import depthwise_residual, depthwise_silu, layer_norm
from torch import Tensor, nn
from torchvision.ops import StochasticDepth

from .mixers import Mixer


class LayerNorm(nn.LayerNorm):
    """``nn.LayerNorm(channels)`` by this project's kernels where they run; of autocast's dtype where that is on."""

    def forward(self, x: Tensor) -> Tensor:
        return layer_norm(x, self.weight, self.bias, self.eps)


class Mlp(nn.Module):
    """Linear, GELU, Linear."""

    def __init__(self, channels: int, ratio: int = 4) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, ratio * channels)
        self.fc2 = nn.Linear(ratio * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class MambaLikeBlock(nn.Module):
    """One block of SEMA, (B, H, W, C) -> (B, H, W, C).

    ::

        x = x + CPE1(x)
        u = LN1(x);  g = SiLU(W_gate u);  y = SiLU(DWConv3x3(W_in u))
        x = x + DropPath(W_out(g * (mixer(y) + LePE(y))))
        x = x + CPE2(x)
        x = x + DropPath(MLP(LN2(x)))

    In a padded batch ``sizes`` are the (h, w) of every picture on the map, (B, 2), int32. What x holds outside a
    picture has no influence on what is inside; what the result holds there means nothing.
    """

    def __init__(
        self, channels: int, num_heads: int, window_size: int, drop_path: float, mixer: Callable[[int, int, int], Mixer]
    ) -> None:
        super().__init__()
        self.cpe1 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm1 = LayerNorm(channels)
        self.gate_proj = nn.Linear(channels, channels)
        self.in_proj = nn.Linear(channels, channels)
        self.dwconv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.mixer = mixer(channels, num_heads, window_size)
        self.out_proj = nn.Linear(channels, channels)
        self.cpe2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm2 = LayerNorm(channels)
        self.mlp = Mlp(channels)
        self.drop_path = StochasticDepth(drop_path, mode="row")

    def forward(self, x: Tensor, sizes: Optional[Tensor] = None) -> Tensor:
        x = depthwise_residual(x, self.cpe1.weight, self.cpe1.bias, sizes=sizes)
        u = self.norm1(x)
        gate = F.silu(self.gate_proj(u))
        y = depthwise_silu(self.in_proj(u), self.dwconv.weight, self.dwconv.bias, sizes=sizes)
        x = x + self.drop_path(self.out_proj(self.mixer(y, gate, sizes)))
        x = depthwise_residual(x, self.cpe2.weight, self.cpe2.bias, sizes=sizes)
        return x + self.drop_path(self.mlp(self.norm2(x)))
