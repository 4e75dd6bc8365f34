"""The PyTorch path: batched attention over windows of equal size. Runs on every device."""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from .rope import apply_rope, expand_rope_table
from .windows import map_windows


def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Softmax attention, (N, heads, t, d) each."""
    half = q.dtype in (torch.float16, torch.bfloat16)
    if half and q.device.type == "cpu" and torch.is_grad_enabled():
        # on the CPU, the backward of scaled_dot_product_attention in half precision is 5 to 7 times slower than this
        return (q @ k.transpose(-2, -1) * scale).softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v, scale=scale)


def sema_attention_torch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window_size: int,
    *,
    scale: float,
    rope: Optional[Tensor] = None,
    mean: bool = True,
) -> Tensor:
    """See :func:`mmsema_kernels.sema_attention`; equals :mod:`mmsema_kernels.reference`."""
    heads, d = q.shape[-2:]

    def attend_windows(height: int, width: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if rope is not None:
            cos_sin = expand_rope_table(rope, height, width).flatten(1, 2)  # (2, t, C/2)
            q, k = apply_rope(q, cos_sin), apply_rope(k, cos_sin)
        q, k, v = (t.unflatten(-1, (heads, d)).transpose(1, 2) for t in (q, k, v))  # (N, heads, t, d), a view
        return _attend(q, k, v, scale).transpose(1, 2).flatten(-2)

    local = map_windows(attend_windows, window_size, *(t.flatten(-2) for t in (q, k, v)))
    if mean:
        local = local + v.flatten(-2).mean((1, 2), keepdim=True, dtype=torch.promote_types(v.dtype, torch.float32))
    return local.to(q.dtype).unflatten(-1, (heads, d))
