"""SEMA's mixer (arXiv 2506.08297)."""

from typing import Optional

import torch
from mmsema_kernels import rope_table, sema_attention_packed
from torch import Tensor

from .averaging import AVERAGES
from .base import Mixer


class SEMAMixer(Mixer):
    """Softmax attention inside windows plus the mean of all values, RoPE in window-local coordinates.

    With s = d ** -0.5, per head, at 2 w^2 d multiply-accumulates a token::

        out_i = sum_{j in i's window} softmax_j(s rope(q_i) . rope(k_j)) v_j + mean(v)

    ``averaging`` names what stands in the mean's place: "mean"; "none"; "max", the largest value of every channel;
    "weighted", a softmax-weighted mean with one learned query per head; "scaled", the mean times a learned number.
    """

    scale: Optional[float] = None  # of the scores; None is d ** -0.5
    rope: Optional[Tensor]

    def __init__(self, channels: int, num_heads: int, window_size: int, averaging: str = "mean") -> None:
        super().__init__(channels, num_heads, window_size)
        self.averaging = averaging
        average = AVERAGES[averaging]
        self.average = None if average is None else average(channels, num_heads)
        self.register_buffer("rope", rope_table(window_size, channels), persistent=False)
        self.register_load_state_dict_post_hook(_fill_rope)

    def reset_parameters(self) -> None:
        """Fill the table, which FSDP asks for where it has made room for a model of the meta device."""
        _fill_rope(self)

    def attend(self, qk: Tensor, v: Tensor, sizes: Optional[Tensor] = None) -> Tensor:
        out = sema_attention_packed(
            qk,
            v,
            self.num_heads,
            self.window_size,
            scale=self.scale,
            rope=self.rope,
            mean=self.averaging == "mean",
            sizes=sizes,
        )
        return out if self.average is None else (out + self.average(qk, v, sizes)).to(out.dtype)


def _fill_rope(mixer: SEMAMixer, incompatible_keys: Optional[tuple] = None) -> None:
    """The table is in no checkpoint: after ``to_empty``, or a load into the meta device, it would be anything."""
    weight = mixer.qk_proj.weight
    if weight.is_meta or mixer.rope is None:
        return
    if mixer.rope.is_meta:
        mixer.rope = torch.empty_like(mixer.rope, device=weight.device)
    mixer.rope.copy_(rope_table(mixer.window_size, weight.shape[1]))
