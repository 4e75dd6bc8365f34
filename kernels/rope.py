"""Two-dimensional rotary position embedding (RoPE) over all C channels of a map.

Channels are taken as C/2 neighbouring pairs (2i, 2i + 1). The first C/4 pairs turn with the row, the other C/4 with the
column; pair k of either half turns by ``position * 10000 ** (-k / (C / 4))``. Softmax scores depend only on differences
of position, so inside a window the window-local coordinates 0..w-1 give the same scores as map coordinates.
"""

from typing import Union

import torch
from torch import Tensor

from .launch import is_compiling

ROPE_BASE = 10000.0


def rope_table(positions: int, channels: int, device: Union[torch.device, str, None] = None) -> Tensor:
    """Cosines and sines of every angle that coordinates 0..positions-1 need.

    Returns:
        Tensor of shape (2, positions, channels // 4), float32: ``[0]`` holds the cosines, ``[1]`` the sines.

    Raises:
        ValueError: ``channels`` is not a multiple of 4.
    """
    if channels % 4:
        raise ValueError(f"channels must be a multiple of 4 for 2-D RoPE, got {channels}")
    quarter = channels // 4
    theta = ROPE_BASE ** (-torch.arange(quarter, dtype=torch.float64, device=device) / quarter)
    angle = torch.arange(positions, dtype=torch.float64, device=device)[:, None] * theta
    return torch.stack([angle.cos(), angle.sin()]).float()


def expand_rope_table(table: Tensor, height: int, width: int) -> Tensor:
    """Spread a :func:`rope_table` over a map: (2, positions, C/4) -> (2, height, width, C/2).

    Coordinates past the table's end start again at 0, which makes a table of ``w`` positions window-local.
    """
    positions = table.shape[1]
    if height <= positions and width <= positions:
        rows, cols = table[:, :height], table[:, :width]
    else:
        rows = table[:, torch.arange(height, device=table.device) % positions]
        cols = table[:, torch.arange(width, device=table.device) % positions]
    rows = rows[:, :, None].expand(-1, -1, width, -1)
    cols = cols[:, None].expand(-1, height, -1, -1)
    return torch.cat([rows, cols], dim=-1)


def apply_rope(x: Tensor, cos_sin: Tensor) -> Tensor:
    """Rotate the channel pairs of ``x`` (..., C) by ``cos_sin`` (2, ..., C/2); computed in float32 or wider."""
    pairs = x.to(torch.promote_types(x.dtype, torch.float32)).unflatten(-1, (-1, 2))
    cos, sin = cos_sin.to(pairs.dtype)
    if is_compiling() or torch.jit.is_tracing():  # neither Inductor nor ONNX has complex numbers
        even, odd = pairs.unbind(-1)
        rotated = torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1)
    else:  # one pass instead of six
        rotated = torch.view_as_real(torch.view_as_complex(pairs.contiguous()) * torch.complex(cos, sin))
    return rotated.flatten(-2).to(x.dtype)
