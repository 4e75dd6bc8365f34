"""MILA's linear attention (arXiv 2405.16605), which SEMA is compared with."""

import torch
import torch.nn.functional as F
from mmsema_kernels import apply_rope, expand_rope_table, rope_table
from torch import Tensor

from .base import Mixer


class LinearMixer(Mixer):
    """MILA's linear attention (arXiv 2405.16605); ``window_size`` plays no part.

    With q = elu(W_q x) + 1, k = elu(W_k x) + 1 and n tokens, per head::

        out_i = rope(q_i) (1/n sum_j rope(k_j)^T v_j) / (q_i . mean(k) + 1e-6)
    """

    def attend(self, qk: Tensor, v: Tensor) -> Tensor:
        B, H, W, C = v.shape
        n = H * W
        q, k = qk.chunk(2, dim=-1)
        with torch.autocast(v.device.type, enabled=False):
            dtype = torch.promote_types(v.dtype, torch.float32)
            q, k, values = F.elu(q.to(dtype)) + 1, F.elu(k.to(dtype)) + 1, v.to(dtype)
            cos_sin = expand_rope_table(rope_table(H + W, C, device=v.device), H, W)  # map coordinates
            q_rope, k_rope = apply_rope(q, cos_sin), apply_rope(k, cos_sin)
            q, k, q_rope, k_rope, values = (
                t.reshape(B, n, self.num_heads, -1).transpose(1, 2) for t in (q, k, q_rope, k_rope, values)
            )  # (B, heads, n, d)
            norm = 1 / (q @ k.mean(2, keepdim=True).transpose(-2, -1) + 1e-6)  # (B, heads, n, 1)
            out = q_rope @ (k_rope.transpose(-2, -1) @ values / n) * norm
        return out.transpose(1, 2).reshape(B, H, W, C).to(v.dtype)
