"""What every token mixer shares."""

from typing import Optional

from mmsema_kernels import lepe_gate
from torch import Tensor, nn


class Mixer(nn.Module):
    """What all mixers share: the projection to q and k, the values (the input itself), LePE, and the gate.

    ::

        out = gate * (attend(x) + LePE(x))

    A mixer defines ``attend``. With ``sizes``, the (h, w) of every picture of a padded batch in tokens, (B, 2), int32,
    each picture gets what it would get alone: nothing outside it takes part in a sum. v is 0 there, but q and k are the
    projection's bias; what ``attend`` returns there is not read, but must be finite. ``Tokens`` in all_tokens.py has
    what mixers over all tokens need, ``mmsema_kernels`` the rest, for any device and compiler: ``zero_outside``,
    ``mean_tokens`` and ``count_tokens`` (for maps that are 0 outside) also where sizes is None, ``real_tokens`` (a
    mask) and ``each_alone`` (a loop over the pictures, for definitions) where it is not.
    """

    def __init__(self, channels: int, num_heads: int, window_size: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.window_size = window_size
        self.qk_proj = nn.Linear(channels, 2 * channels)
        self.lepe = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def attend(self, qk: Tensor, v: Tensor, sizes: Optional[Tensor] = None) -> Tensor:
        """(B, H, W, 2C), q and k side by side, and (B, H, W, C) -> (B, H, W, C)."""
        raise NotImplementedError

    def forward(self, x: Tensor, gate: Tensor, sizes: Optional[Tensor] = None) -> Tensor:
        """(B, H, W, C) each -> (B, H, W, C), 0 outside the pictures."""
        out = self.attend(self.qk_proj(x), x, sizes)
        return lepe_gate(out, x, self.lepe.weight, self.lepe.bias, gate, sizes=sizes)
