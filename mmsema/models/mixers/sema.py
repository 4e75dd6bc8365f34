"""SEMA's mixer (arXiv 2506.08297)."""

from mmsema_kernels import rope_table, sema_attention_packed
from torch import Tensor

from .base import Mixer


class SEMAMixer(Mixer):
    """Softmax attention inside windows plus the mean of all values, RoPE in window-local coordinates."""

    def __init__(self, channels: int, num_heads: int, window_size: int) -> None:
        super().__init__(channels, num_heads, window_size)
        self.register_buffer("rope", rope_table(window_size, channels), persistent=False)

    def attend(self, qk: Tensor, v: Tensor) -> Tensor:
        return sema_attention_packed(qk, v, self.num_heads, self.window_size, rope=self.rope)
