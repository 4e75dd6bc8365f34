"""THE definition of SEMA attention, in plain PyTorch. Every faster path is tested against this file."""

from functools import partial
from typing import Optional

import torch
from torch import Tensor

from .rope import apply_rope, expand_rope_table
from .sizes import each_alone


def sema_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window_size: int = 7,
    *,
    scale: Optional[float] = None,
    rope: Optional[Tensor] = None,
    mean: bool = True,
    sizes: Optional[Tensor] = None,
) -> Tensor:
    """Softmax attention inside local windows plus the plain mean of all values (arXiv 2506.08297).

    For one image of n = H * W tokens and J(i) the tokens of i's window::

        out_i = sum_{j in J(i)} softmax_j(scale * q_i . k_j) v_j  +  (1 / n) sum_{all j} v_j

    Windows are cut from the top-left corner. One that the right or bottom edge cuts off holds its real tokens only:
    nothing is padded. Without ``mean`` the second term is left out. Arithmetic runs in float32 (float64 for float64
    inputs) and is rounded to the input's dtype once, at the end.

    With ``sizes``, (B, 2), picture b is ``[b, :h, :w]`` of every map, and its result that of the picture alone; outside
    it is 0.

    Args and shapes are those of :func:`mmsema_kernels.sema_attention`.
    """
    if sizes is not None:
        alone = partial(sema_attention_reference, window_size=window_size, scale=scale, rope=rope, mean=mean)
        return each_alone(alone, sizes, q, k, v)
    dtype = q.dtype
    q, k, v = (t.to(torch.promote_types(dtype, torch.float32)) for t in (q, k, v))
    H, W, heads, d = q.shape[1:]
    scale = d**-0.5 if scale is None else scale
    if rope is not None:
        cos_sin = expand_rope_table(rope, H, W)  # (2, H, W, heads * d / 2)
        q, k = (apply_rope(t.flatten(-2), cos_sin).unflatten(-1, (heads, d)) for t in (q, k))
    bands = []
    for top in range(0, H, window_size):
        row = []
        for left in range(0, W, window_size):
            window = (slice(None), slice(top, top + window_size), slice(left, left + window_size))
            qw, kw, vw = q[window], k[window], v[window]  # (B, wh, ww, heads, d)
            scores = torch.einsum("bijhd,bmnhd->bhijmn", qw, kw) * scale
            weights = scores.flatten(-2).softmax(-1).view_as(scores)
            row.append(torch.einsum("bhijmn,bmnhd->bijhd", weights, vw))
        bands.append(torch.cat(row, dim=2))
    local = torch.cat(bands, dim=1)
    return (local + v.mean((1, 2), keepdim=True) if mean else local).to(dtype)
