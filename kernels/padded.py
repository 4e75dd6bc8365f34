"""The path for exporters: no branch on H or W, so one graph holds for every map. Ragged windows are filled, masked."""

from typing import Optional, Tuple

import torch
from torch import Tensor

from .rope import apply_rope, expand_rope_table
from .sizes import mean_tokens, real_tokens, zero_outside


def window_index(H: int, W: int, window_size: int, device: torch.device) -> Tuple[Tensor, Tensor, Tensor]:
    """Where the tokens of a map, counted row by row, stand when all windows are filled up to t = w * w places.

    Returns:
        The token at every place of every window, (windows, t), token 0 at places past the map's edges; whether a place
        holds a token of the window, (windows, t); and the place of every token among windows * t, (H, W).
    """
    w = window_size
    down, across = (H + w - 1) // w, (W + w - 1) // w  # -(-H // w) is not what TorchScript computes
    place, row, col = (torch.arange(n, device=device) for n in (w, H, W))
    rows = (torch.arange(down, device=device)[:, None] * w + place)[:, None, :, None]  # (down, 1, w, 1)
    cols = (torch.arange(across, device=device)[:, None] * w + place)[:, None, :]  # (across, 1, w)
    real = ((rows < H) & (cols < W)).flatten(2).flatten(0, 1)
    tokens = (rows * W + cols).flatten(2).flatten(0, 1) * real
    row, col = row[:, None], col[None]
    places = ((row // w * across + col // w) * w + row % w) * w + col % w
    return tokens, real, places


def sema_attention_padded(
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
    """See :func:`mmsema_kernels.sema_attention`; equals :mod:`mmsema_kernels.reference`.

    Scores of filled places are minus infinity, so that their weights are 0, and what they would receive is not read.
    """
    H, W, heads, d = q.shape[1:]
    tokens, real, places = window_index(H, W, window_size, q.device)
    q, k, v = (zero_outside(t, sizes) for t in (q, k, v))
    mask = real[:, None, None]  # (windows, 1, 1, t)
    if sizes is not None:
        inside = real_tokens(sizes, H, W).flatten(1)[:, tokens]  # (B, windows, t)
        # a window without a real token attends over its first place: a softmax over none would be NaN
        first = torch.arange(window_size**2, device=q.device) == 0
        mask = (real & inside | first)[:, :, None, None]
    q, k, values = (t.contiguous().flatten(-2).flatten(1, 2)[:, tokens] for t in (q, k, v))  # (B, windows, t, C)
    if rope is not None:
        cos_sin = expand_rope_table(rope, window_size, window_size).flatten(1, 2)  # (2, t, C/2)
        q, k = apply_rope(q, cos_sin), apply_rope(k, cos_sin)
    q, k, values = (t.unflatten(-1, (heads, d)).transpose(2, 3) for t in (q, k, values))  # (B, windows, heads, t, d)
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = (q.to(wide) * scale @ k.to(wide).transpose(-2, -1)).masked_fill(~mask, -torch.inf)
    local = (scores.softmax(-1).to(values.dtype) @ values).transpose(2, 3).contiguous()
    out = local.flatten(1, 2)[:, places]  # of (B, windows * t, heads, d)
    if mean:
        out = out + mean_tokens(v, sizes)
    return zero_outside(out.to(v.dtype), sizes)
