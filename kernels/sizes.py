"""Pictures of different sizes in one batch: (h, w) of each, in tokens, inside maps (B, H, W, C).

``sizes`` is a (B, 2) tensor of int32 on the maps' device, 1 <= h <= H and 1 <= w <= W. A picture stands in the top-left
corner of its map. Every operator gives inside it what it would give for ``x[b, :h, :w]`` alone, and 0 outside. What the
inputs hold outside has no influence, be it NaN, and receives a gradient of 0.

On the CPU the sizes are read, and each picture is handled by slices; elsewhere, and in compiled or exported graphs,
that would wait for the device or fix the sizes, and masks do the same.
"""

from itertools import groupby
from typing import Callable, Optional, Union

import torch
import torch.nn.functional as F
from torch import Tensor

from .launch import check_devices, is_compiling


def can_read(sizes: Tensor) -> bool:
    """Whether the numbers can be read without waiting for a device and without fixing them in a graph."""
    return sizes.device.type == "cpu" and not is_compiling() and not torch.jit.is_tracing()


def check_sizes(sizes: Optional[Tensor], x: Tensor) -> None:
    """Raise the error that names ``sizes`` unless they are None or fit ``x``, (B, H, W, ...); numbers where cheap."""
    if sizes is None:
        return
    if not isinstance(sizes, Tensor) or sizes.dtype != torch.int32:
        raise TypeError(f"sizes must be an int32 tensor, got {getattr(sizes, 'dtype', type(sizes).__name__)}")
    B, H, W = x.shape[:3]
    if sizes.ndim != 2 or sizes.shape[0] != B or sizes.shape[1] != 2:
        raise ValueError(f"sizes must have shape (B, 2) = ({B}, 2), got {tuple(sizes.shape)}")
    check_devices(x, sizes=sizes)
    if can_read(sizes):
        for size in sizes.tolist():
            if not (1 <= size[0] <= H and 1 <= size[1] <= W):
                raise ValueError(f"sizes must be from (1, 1) to the map's ({H}, {W}), got {tuple(size)}")


def real_tokens(sizes: Tensor, H: int, W: int) -> Tensor:
    """Which tokens of maps of H x W belong to the picture: (B, 2) -> (B, H, W), bool."""
    row, col = torch.arange(H, device=sizes.device), torch.arange(W, device=sizes.device)
    return (row < sizes[:, :1])[:, :, None] & (col < sizes[:, 1:])[:, None]


def clear_outside(x: Tensor, sizes: Tensor, height_dim: int) -> Tensor:
    """Write 0 outside the pictures of x and return it; for sizes that can be read, unseen by autograd."""
    H, W = x.shape[height_dim : height_dim + 2]
    for picture, (h, w) in zip(x.detach(), sizes.tolist(), strict=True):
        if h < H:  # a call for nothing takes as long as one for a small map
            picture.narrow(height_dim - 1, h, H - h).zero_()
        if w < W:
            picture.narrow(height_dim, w, W - w).zero_()
    return x


class _ZeroOutside(torch.autograd.Function):
    """Slices filled with 0, in a copy or, with ``inplace``, in x itself."""

    @staticmethod
    def forward(ctx, x, sizes, height_dim, inplace):
        ctx.arguments = sizes, height_dim
        if inplace:
            ctx.mark_dirty(x)
        return clear_outside(x if inplace else x.clone(), sizes, height_dim)

    @staticmethod
    def backward(ctx, grad):
        return _ZeroOutside.apply(grad, *ctx.arguments, False), None, None, None


def zero_outside(x: Tensor, sizes: Optional[Tensor], *, height_dim: int = 1, inplace: bool = False) -> Tensor:
    """x, (B, H, W, ...), with 0 outside the pictures; x itself where sizes is None.

    ``height_dim`` is 2 for maps (B, C, H, W).
    ``inplace`` allows to change x where that is faster: a temporary whose values no gradient needs.
    """
    if sizes is None:
        return x
    if can_read(sizes):
        return _ZeroOutside.apply(x, sizes, height_dim, inplace)
    B, H, W = x.shape[0], *x.shape[height_dim : height_dim + 2]
    real = real_tokens(sizes, H, W).view(B, *[1] * (height_dim - 1), H, W, *[1] * (x.ndim - height_dim - 2))
    return torch.where(real, x, 0)


def count_tokens(x: Tensor, sizes: Optional[Tensor]) -> Union[int, Tensor]:
    """h * w of every picture in maps x, (B, H, W, ...): as many dimensions as x has, (B, 1, 1, ...); H * W for None."""
    return x.shape[1] * x.shape[2] if sizes is None else sizes.prod(1).view(-1, *[1] * (x.ndim - 1))


def mean_tokens(x: Tensor, sizes: Optional[Tensor]) -> Tensor:
    """Mean of every picture's tokens, (B, H, W, ...) -> (B, 1, 1, ...), float32 or wider, for x that is 0 outside."""
    wide = torch.promote_types(x.dtype, torch.float32)
    if sizes is None:
        return x.mean((1, 2), keepdim=True, dtype=wide)
    return x.sum((1, 2), keepdim=True, dtype=wide) / count_tokens(x, sizes)


def each_alone(run: Callable[..., Tensor], sizes: Tensor, *maps: Tensor) -> Tensor:
    """``run`` on every picture alone, or on neighbours of one size: maps (B, H, W, ...) -> (B, H, W, ...)."""
    if not len(sizes):
        return run(*maps)
    H, W = maps[0].shape[1:3]
    equal = [(size, len(list(pictures))) for size, pictures in groupby(map(tuple, sizes.tolist()))]
    # split, not slicing: its backward is one concatenation instead of a zero-filled batch per picture
    parts = zip(*(t.split([count for _, count in equal]) for t in maps), strict=True)
    results = []
    for ((h, w), _), part in zip(equal, parts, strict=True):
        result = run(*(t[:, :h, :w] for t in part))
        results.append(F.pad(result, (0, 0) * (result.ndim - 3) + (0, W - w, 0, H - h)))
    return results[0] if len(results) == 1 else torch.cat(results)
