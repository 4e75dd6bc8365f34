"""Softmax attention over all tokens."""

from typing import Optional

import torch
import torch.nn.functional as F
from mmsema_kernels.launch import is_exporting
from torch import Tensor

from .all_tokens import Tokens
from .base import Mixer


class SoftmaxMixer(Mixer):
    """Softmax attention over all n tokens, RoPE in map coordinates; ``window_size`` plays no part.

    With s = d ** -0.5, per head, at 2 n d multiply-accumulates a token::

        out_i = sum_j softmax_j(s rope(q_i) . rope(k_j)) v_j

    ``scaled_dot_product_attention`` computes it, in the maps' dtype with sums in float32 and in memory linear in n.
    """

    def attend(self, qk: Tensor, v: Tensor, sizes: Optional[Tensor] = None) -> Tensor:
        tokens = Tokens(v, self.num_heads, sizes)
        q, k, v = tokens.split(*tokens.rope(*qk.chunk(2, dim=-1)), v.to(qk.dtype))  # under autocast they may differ
        mask = None if tokens.real is None else tokens.real.transpose(-2, -1)  # (B, 1, 1, n)
        if is_exporting() and not torch.jit.is_tracing():
            # the operator would choose one of its kernels now, and leave in the graph what sizes that one takes
            scores = q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)
            if mask is not None:
                scores = scores.masked_fill(~mask, -torch.inf)
            return tokens.merge(scores.softmax(-1) @ v)
        return tokens.merge(F.scaled_dot_product_attention(q, k, v, attn_mask=mask))
