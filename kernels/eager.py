"""The PyTorch path: batched attention over windows of equal size. Runs on every device."""

from functools import partial
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from .padded import sema_attention_padded
from .rope import apply_rope, expand_rope_table
from .sizes import can_read, each_alone, mean_tokens
from .windows import map_windows

MOST_WINDOWS = 65_535  # of one call: PyTorch's kernels for CUDA take no more ("invalid argument")


def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Softmax attention, (N, heads, t, d) each."""
    if len(q) > MOST_WINDOWS:
        parts = zip(*(t.split(MOST_WINDOWS) for t in (q, k, v)), strict=True)
        return torch.cat([_attend(q, k, v, scale) for q, k, v in parts])
    half = q.dtype in (torch.float16, torch.bfloat16)
    if half and q.device.type == "cpu" and torch.is_grad_enabled():
        # on the CPU, the backward of scaled_dot_product_attention in half precision is 5 to 7 times slower than this
        return (q.float() * scale @ k.float().transpose(-2, -1)).softmax(-1).to(v.dtype) @ v
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
    sizes: Optional[Tensor] = None,
) -> Tensor:
    """See :func:`mmsema_kernels.sema_attention`; equals :mod:`mmsema_kernels.reference`."""
    if sizes is not None:
        if not can_read(sizes):
            return sema_attention_padded(q, k, v, window_size, scale=scale, rope=rope, mean=mean, sizes=sizes)
        alone = partial(sema_attention_torch, window_size=window_size, scale=scale, rope=rope, mean=mean)
        return each_alone(alone, sizes, q, k, v)
    heads, d = q.shape[-2:]

    def attend_windows(height: int, width: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if rope is not None:
            cos_sin = expand_rope_table(rope, height, width).flatten(1, 2)  # (2, t, C/2)
            q, k = apply_rope(q, cos_sin), apply_rope(k, cos_sin)
        q, k, v = (t.unflatten(-1, (heads, d)).transpose(1, 2) for t in (q, k, v))  # (N, heads, t, d), a view
        return _attend(q, k, v, scale).transpose(1, 2).flatten(-2)

    q, k, v = (t.flatten(-2) for t in (q, k, v))
    local = map_windows(attend_windows, window_size, q, k, v)
    if mean:
        local = local + mean_tokens(v, None)
    return local.to(q.dtype).unflatten(-1, (heads, d))
