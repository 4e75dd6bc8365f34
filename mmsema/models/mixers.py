"""Token mixers: SEMA, and MILA's linear attention that it is compared with. Same parameters, other arithmetic."""

import torch
import torch.nn.functional as F
from mmsema_kernels import apply_rope, expand_rope_table, lepe_gate, rope_table, sema_attention_packed
from torch import Tensor, nn


class Mixer(nn.Module):
    """What both mixers share: the projection to q and k, the values (the input itself), LePE, and the gate::

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


class SEMAMixer(Mixer):
    """Softmax attention inside windows plus the mean of all values, RoPE in window-local coordinates."""

    def __init__(self, channels: int, num_heads: int, window_size: int) -> None:
        super().__init__(channels, num_heads, window_size)
        self.register_buffer("rope", rope_table(window_size, channels), persistent=False)

    def attend(self, qk: Tensor, v: Tensor) -> Tensor:
        return sema_attention_packed(qk, v, self.num_heads, self.window_size, rope=self.rope)


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
