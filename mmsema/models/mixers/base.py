"""What every token mixer shares."""

from mmsema_kernels import lepe_gate
from torch import Tensor, nn


class Mixer(nn.Module):
    """What all mixers share: the projection to q and k, the values (the input itself), LePE, and the gate.

    ::

        out = gate * (attend(x) + LePE(x))
    """

    def __init__(self, channels: int, num_heads: int, window_size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.qk_proj = nn.Linear(channels, 2 * channels)
        self.lepe = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def attend(self, qk: Tensor, v: Tensor) -> Tensor:
        """(B, H, W, 2C), q and k side by side, and (B, H, W, C) -> (B, H, W, C)."""
        raise NotImplementedError

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:  # (B, H, W, C) each -> (B, H, W, C)
        return lepe_gate(self.attend(self.qk_proj(x), x), x, self.lepe.weight, self.lepe.bias, gate)
