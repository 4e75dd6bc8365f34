"""The PyTorch path: batched attention over windows of equal size. Runs on every device."""

from functools import partial
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from .rope import apply_rope, expand_rope_table
from .sizes import can_read, each_alone, mean_tokens, real_tokens, zero_outside
from .windows import map_windows


def _attend(q: Tensor, k: Tensor, v: Tensor, scale: float, real: Optional[Tensor]) -> Tensor:
    """Softmax attention, (N, heads, t, d) each, over the tokens that are ``real``, (N, 1, 1, t) of bool."""
    half = q.dtype in (torch.float16, torch.bfloat16)
    if half and q.device.type == "cpu" and torch.is_grad_enabled():
        # on the CPU, the backward of scaled_dot_product_attention in half precision is 5 to 7 times slower than this
        scores = q @ k.transpose(-2, -1) * scale
        return (scores if real is None else scores.masked_fill(~real, -torch.inf)).softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v, scale=scale, attn_mask=real)


def _attended(sizes: Tensor, H: int, W: int, window_size: int) -> Tensor:
    """The real tokens, and the first one of every window, (B, H, W, 1): a softmax over none would be NaN."""
    row, col = torch.arange(H, device=sizes.device), torch.arange(W, device=sizes.device)
    first = (row % window_size == 0)[:, None] & (col % window_size == 0)
    return (real_tokens(sizes, H, W) | first)[..., None]


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
    if sizes is not None and can_read(sizes):
        alone = partial(sema_attention_torch, window_size=window_size, scale=scale, rope=rope, mean=mean)
        return each_alone(alone, sizes, q, k, v)
    heads, d = q.shape[-2:]

    def attend_windows(height: int, width: int, q: Tensor, k: Tensor, v: Tensor, *real: Tensor) -> Tensor:
        if rope is not None:
            cos_sin = expand_rope_table(rope, height, width).flatten(1, 2)  # (2, t, C/2)
            q, k = apply_rope(q, cos_sin), apply_rope(k, cos_sin)
        q, k, v = (t.unflatten(-1, (heads, d)).transpose(1, 2) for t in (q, k, v))  # (N, heads, t, d), a view
        mask = real[0].squeeze(-1)[:, None, None] if real else None
        return _attend(q, k, v, scale, mask).transpose(1, 2).flatten(-2)

    q, k, v = (zero_outside(t.flatten(-2), sizes) for t in (q, k, v))
    masks = () if sizes is None else (_attended(sizes, *v.shape[1:3], window_size),)
    local = map_windows(attend_windows, window_size, q, k, v, *masks)
    if mean:
        local = local + mean_tokens(v, sizes)
    return zero_outside(local.to(q.dtype), sizes).unflatten(-1, (heads, d))
