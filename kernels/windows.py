"""Cut maps into windows and put them back: pure functions, sizes read from the tensors, nothing padded."""

from typing import Callable, List

import torch
from torch import Tensor


def window_partition(x: Tensor, height: int, width: int) -> Tensor:
    """(B, H, W, C) -> (B * H/height * W/width, height * width, C), for sizes that divide."""
    B, H, W, C = x.shape
    x = x.reshape(B, H // height, height, W // width, width, C)
    return x.transpose(2, 3).reshape(B * (H // height) * (W // width), height * width, C)


def window_merge(windows: Tensor, height: int, width: int, H: int, W: int) -> Tensor:
    """The inverse of :func:`window_partition`: (B * H/height * W/width, height * width, C) -> (B, H, W, C)."""
    rows, cols, C = H // height, W // width, windows.shape[-1]
    B = windows.shape[0] // (rows * cols)
    x = windows.reshape(B, rows, cols, height, width, C)
    return x.transpose(2, 3).reshape(B, H, W, C)


def split_lengths(length: int, window_size: int) -> List[int]:
    """The whole windows' part of a side and, where there is one, the ragged rest: 16 by 7 -> [14, 2]."""
    whole = length // window_size * window_size  # torch.compile simplifies this, but not length - length % window_size
    return [part for part in (whole, length - whole) if part]


def map_windows(fn: Callable[..., Tensor], window_size: int, *maps: Tensor) -> Tensor:
    """Apply ``fn`` to the windows of every (B, H, W, C) map and reassemble what it returns, (B, H, W, C).

    A map has at most four rectangles in which all windows have one size (whole windows, the right strip, the bottom
    strip, the corner). ``fn(height, width, *windows)`` is called once for each, with windows of shape
    (N, height * width, C).
    """
    H, W = maps[0].shape[1:3]
    heights, widths = split_lengths(H, window_size), split_lengths(W, window_size)
    # split, not slicing: its backward is one concatenation instead of a zero-filled map per slice
    grids = [[band.split(widths, 2) for band in x.split(heights, 1)] for x in maps]
    bands = []
    for i, h in enumerate(heights):
        row = []
        for j, w in enumerate(widths):
            wh, ww = min(h, window_size), min(w, window_size)
            windows = fn(wh, ww, *(window_partition(grid[i][j], wh, ww) for grid in grids))
            row.append(window_merge(windows, wh, ww, h, w))
        bands.append(row[0] if len(row) == 1 else torch.cat(row, dim=2))
    return bands[0] if len(bands) == 1 else torch.cat(bands, dim=1)
