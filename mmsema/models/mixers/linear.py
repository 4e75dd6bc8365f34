"""MILA's linear attention (arXiv 2405.16605)."""

import torch.nn.functional as F
from torch import Tensor

from .all_tokens import LinearAttention, Tokens


class LinearMixer(LinearAttention):
    """MILA's linear attention (arXiv 2405.16605).

    With q = elu(W_q x) + 1, k = elu(W_k x) + 1 and n tokens, per head, at 2 d^2 multiply-accumulates a token::

        out_i = rope(q_i) (1/n sum_j rope(k_j)^T v_j) / (q_i . mean(k) + 1e-6)
    """

    def attend_all(self, q: Tensor, k: Tensor, v: Tensor, tokens: Tokens) -> Tensor:
        q, k = F.elu(q) + 1, F.elu(k) + 1
        q, k, q_rope, k_rope, v = tokens.split(q, k, *tokens.rope(q, k), v)
        norm = 1 / (q @ tokens.mean(k).transpose(-2, -1) + 1e-6)  # (B, heads, n, 1)
        return tokens.merge(q_rope @ (k_rope.transpose(-2, -1) @ v / tokens.count) * norm)
