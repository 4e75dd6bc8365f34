"""Pictures of different sizes in one batch: where they end, and layers that let nothing in from the padding.

A map of a padded batch is 0 outside its pictures wherever a 3x3 convolution reads it, and BatchNorm counts real tokens.
``sizes`` are the (h, w) of every picture on that map, (B, 2), int32; None stands for pictures that fill it.
"""

from typing import Optional

import torch
from mmsema_kernels.sizes import can_read, check_sizes, real_tokens, zero_outside
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def halve(sizes: Optional[Tensor]) -> Optional[Tensor]:
    """Sizes after a stride of 2, rounded up."""
    return None if sizes is None else (sizes + 1) // 2


def find_sizes(x: Tensor, pad_value: float) -> Optional[Tensor]:
    """Where the pictures in a batch (B, 3, H, W) end: what follows at the bottom and on the right is all ``pad_value``.

    A picture that is ``pad_value`` throughout counts as one that fills the batch. None where all do and that can be
    seen without waiting for a device.
    """
    readable = can_read(x)
    if readable and not any((edge == pad_value).flatten(1).all(1).any() for edge in (x[:, :, -1], x[..., -1])):
        return None
    content = (x != pad_value).any(1)  # (B, H, W)
    ends = []
    for length, across in zip(x.shape[2:], (2, 1), strict=True):
        position = torch.arange(1, length + 1, device=x.device)
        last = (content.any(across) * position).amax(1)
        ends.append(torch.where(last == 0, length, last))
    sizes = torch.stack(ends, 1).int()
    return None if readable and _all_fill(sizes, x) else sizes


def _all_fill(sizes: Tensor, x: Tensor) -> bool:
    return all(tuple(size) == x.shape[2:] for size in sizes.tolist())


def picture_sizes(x: Tensor, sizes: Optional[Tensor], pad_value: Optional[float]) -> Optional[Tensor]:
    """Real sizes in pixels of the pictures in a batch (B, 3, H, W): those given, else those that are seen in it."""
    if sizes is None:
        return None if pad_value is None else find_sizes(x, pad_value)
    if isinstance(sizes, Tensor) and not sizes.is_floating_point():
        sizes = sizes.int()
    check_sizes(sizes, x.permute(0, 2, 3, 1))
    return None if can_read(sizes) and _all_fill(sizes, x) else sizes


def batch_norm(norm: _BatchNorm, x: Tensor, sizes: Optional[Tensor]) -> Tensor:
    """``norm`` of a map (B, C, H, W); in training its statistics are those of the real tokens, and it is 0 outside."""
    if sizes is None or not norm.training:
        return norm(x)
    if can_read(sizes):
        tokens = _Pack.apply(x, sizes)  # (N, C)
        tokens = norm(tokens[None, :, None].permute(0, 3, 1, 2)).permute(0, 2, 3, 1).reshape(tokens.shape)
        return _Unpack.apply(tokens, sizes, x.shape)
    return _masked_batch_norm(norm, x, sizes)


def _pack(x: Tensor, sizes: Tensor) -> Tensor:
    """The real tokens of a map (B, C, H, W), one picture after another: (N, C)."""
    pairs = sizes.tolist()
    out = x.new_empty((sum(h * w for h, w in pairs), x.shape[1]))
    for (h, w), picture, tokens in zip(pairs, x, out.split([h * w for h, w in pairs]), strict=True):
        tokens.view(h, w, -1).copy_(picture[:, :h, :w].permute(1, 2, 0))
    return out


def _unpack(tokens: Tensor, sizes: Tensor, shape: torch.Size) -> Tensor:
    """The inverse of :func:`_pack`, with 0 outside the pictures."""
    pairs = sizes.tolist()
    out = tokens.new_zeros(shape).contiguous(memory_format=torch.channels_last)
    for (h, w), picture, part in zip(pairs, out, tokens.split([h * w for h, w in pairs]), strict=True):
        picture[:, :h, :w] = part.view(h, w, -1).permute(2, 0, 1)
    return out


class _Pack(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, sizes):
        ctx.arguments = sizes, x.shape
        return _pack(x, sizes)

    @staticmethod
    def backward(ctx, grad):
        return _Unpack.apply(grad, *ctx.arguments), None


class _Unpack(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tokens, sizes, shape):
        ctx.sizes = sizes
        return _unpack(tokens, sizes, shape)

    @staticmethod
    def backward(ctx, grad):
        return _Pack.apply(grad, ctx.sizes), None, None


def _masked_batch_norm(norm: _BatchNorm, x: Tensor, sizes: Tensor) -> Tensor:
    """The same without reading the sizes. Sums go over all processes where ``norm`` is a SyncBatchNorm."""
    real = real_tokens(sizes, *x.shape[2:])[:, None]  # (B, 1, H, W)

    def total(values: Tensor) -> Tensor:
        sums = torch.where(real, values, 0).sum((0, 2, 3))
        if isinstance(norm, nn.SyncBatchNorm) and torch.distributed.is_initialized():
            from torch.distributed.nn.functional import all_reduce

            sums = all_reduce(sums, group=norm.process_group or torch.distributed.group.WORLD)
        return sums

    values = torch.where(real, x, 0).to(torch.promote_types(x.dtype, torch.float32))
    count = total(real.to(values.dtype).expand(-1, x.shape[1], -1, -1))  # (C,), all equal
    mean = total(values) / count
    centred = values - mean[:, None, None]
    var = total(centred.square()) / count
    with torch.no_grad():
        norm.num_batches_tracked.add_(1)
        factor = 1 / norm.num_batches_tracked if norm.momentum is None else norm.momentum
        norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), factor)
        unbiased = var * (count / (count - 1).clamp(min=1))
        norm.running_var.lerp_(unbiased.to(norm.running_var.dtype), factor)
    scale = norm.weight * torch.rsqrt(var + norm.eps)
    return torch.where(real, centred * scale[:, None, None] + norm.bias[:, None, None], 0).to(x.dtype)


class Layers(nn.Sequential):
    """Convolutions, BatchNorm and ReLU in a row, on maps (B, C, H, W) that are 0 outside the pictures.

    ``sizes`` are those of the map that comes in. What comes out is 0 outside where a ReLU is the last layer.
    """

    def forward(self, x: Tensor, sizes: Optional[Tensor] = None) -> Tensor:
        for layer in self:
            if isinstance(layer, nn.Conv2d) and layer.stride[0] == 2:
                sizes = halve(sizes)
            if isinstance(layer, _BatchNorm):
                x = batch_norm(layer, x, sizes)
                continue
            if isinstance(layer, nn.ReLU) and sizes is not None:
                if can_read(sizes):  # behind autograd's back, as ReLU sends no gradient to where it gives 0
                    zero_outside(x.detach(), sizes, height_dim=2, inplace=True)
                else:
                    x = zero_outside(x, sizes, height_dim=2)
            x = layer(x)
        return x
