"""Magnitude-aware linear attention (MALA, arXiv 2507.00698)."""

import torch.nn.functional as F
from torch import Tensor

from .all_tokens import LinearAttention, Tokens


class MALAMixer(LinearAttention):
    """Magnitude-aware linear attention (MALA, arXiv 2507.00698): a longer query makes the weights sharper.

    With q = elu(W_q x) + 1, k = elu(W_k x) + 1, s = d ** -0.5 and z_i = s q_i . mean(k), per head, at 2 d^2
    multiply-accumulates a token::

        out_i = (1 + 1 / (z_i + 1e-6)) rope(q_i) (s/n sum_j rope(k_j)^T v_j) - z_i mean(v)

    Without RoPE the weights of a token sum to one; they may be negative.
    """

    def attend_all(self, q: Tensor, k: Tensor, v: Tensor, tokens: Tokens) -> Tensor:
        q, k = F.elu(q) + 1, F.elu(k) + 1
        q, k, q_rope, k_rope, v = tokens.split(q, k, *tokens.rope(q, k), v)
        scale = v.shape[-1] ** -0.5
        z = scale * q @ tokens.mean(k).transpose(-2, -1)  # (B, heads, n, 1)
        attended = q_rope @ (k_rope.transpose(-2, -1) @ v * scale / tokens.count)
        return tokens.merge((1 + 1 / (z + 1e-6)) * attended - z * tokens.mean(v))
