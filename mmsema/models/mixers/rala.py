"""Rank-augmented linear attention (RALA, arXiv 2411.07635)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .all_tokens import LinearAttention, Tokens


class RALAMixer(LinearAttention):
    """Rank-augmented linear attention (RALA, arXiv 2411.07635): keys count by how well they fit the mean query.

    With q = elu(W_q x) + 1, k = elu(W_k x) + 1, s = d ** -0.5 and a_j = softmax_j(s mean(q) . k_j), per head, at 2 d^2
    multiply-accumulates a token::

        out_i = rope(q_i) (sum_j a_j rope(k_j)^T v_j) / (q_i . sum_j a_j k_j + 1e-6)

    The paper multiplies the result by a second projection of x, in the place of our block's gate.
    """

    def attend_all(self, q: Tensor, k: Tensor, v: Tensor, tokens: Tokens) -> Tensor:
        q, k = F.elu(q) + 1, F.elu(k) + 1
        q, k, q_rope, k_rope, v = tokens.split(q, k, *tokens.rope(q, k), v)
        scores = k @ tokens.mean(q).transpose(-2, -1) * v.shape[-1] ** -0.5  # (B, heads, n, 1)
        share = tokens.fill(scores, -torch.inf).softmax(2)
        norm = 1 / (q @ (share * k).sum(2)[..., None] + 1e-6)  # (B, heads, n, 1)
        return tokens.merge(q_rope @ (k_rope.transpose(-2, -1) @ (share * v)) * norm)
