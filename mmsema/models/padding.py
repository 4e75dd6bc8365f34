"""Pictures of different sizes in one batch: where they end, and layers that let nothing in from the padding.

A map of a padded batch is 0 outside its pictures wherever a 3x3 convolution reads it, and BatchNorm counts real tokens.
``sizes`` are the (h, w) of every picture on that map, (B, 2), int32; None stands for pictures that fill it.
"""

from typing import Iterator, Optional

import torch
import torch.nn.functional as F
from mmsema_kernels.sizes import can_read, check_sizes, clear_outside, real_tokens, zero_outside
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
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
    if can_read(sizes):
        return None if _all_fill(sizes, x) else sizes
    # on a device no one looks at the numbers: those beyond the batch must not lead the kernels out of the maps
    return torch.stack([side.clamp(1, most) for side, most in zip(sizes.unbind(1), x.shape[2:], strict=True)], 1)


def batch_norm(norm: _BatchNorm, x: Tensor, sizes: Optional[Tensor]) -> Tensor:
    """``norm`` of a map (B, C, H, W); the statistics of a batch are those of its real tokens, and then it is 0 outside.

    Where the sizes can be read, what x holds outside is overwritten.
    """
    if sizes is None or not (norm.training or norm.running_mean is None):
        return norm(x)
    if isinstance(norm, nn.SyncBatchNorm) or not can_read(sizes):
        return _masked_batch_norm(norm, x, sizes)
    count = int(sizes.prod(1).sum())
    wide = torch.promote_types(x.dtype, torch.float32)  # that of the statistics: PyTorch takes one dtype for both
    out, mean, var = _BatchNormOfTokens.apply(x, norm.weight.to(wide), norm.bias.to(wide), sizes, count, norm.eps)
    _track(norm, mean, var * (count / max(count - 1, 1)))
    return out


@torch.no_grad()
def _track(norm: _BatchNorm, mean: Tensor, unbiased_var: Tensor) -> None:
    """Take the statistics of a batch into the running ones, if there are any."""
    if norm.running_mean is None:
        return
    norm.num_batches_tracked.add_(1)
    factor = 1 / norm.num_batches_tracked if norm.momentum is None else norm.momentum
    for running, new in ((norm.running_mean, mean), (norm.running_var, unbiased_var)):
        running.add_((new.to(running.dtype) - running) * factor)


def _outside(x: Tensor, sizes: Tensor) -> Iterator[Tensor]:
    """Views of what a map (B, C, H, W) holds below and to the right of its pictures."""
    H, W = x.shape[2:]
    for picture, (h, w) in zip(x, sizes.tolist(), strict=True):
        if h < H:
            yield picture[:, h:]
        if w < W:
            yield picture[:, :h, w:]


class _BatchNormOfTokens(torch.autograd.Function):
    """By PyTorch's kernels for whole maps, without a copy of one: outside, x gets the mean, which adds to no variance.

    Returns the map, the mean and the variance, (C) each.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, sizes, count, eps):
        x = x.contiguous(memory_format=torch.channels_last)
        wide = torch.promote_types(x.dtype, torch.float32)
        mean = clear_outside(x, sizes, 2).sum((0, 2, 3), dtype=wide) / count
        for part in _outside(x.detach(), sizes):
            part.copy_(mean[:, None, None].expand_as(part))
        var = torch.batch_norm_update_stats(x, None, None, 0.0)[1].to(wide) * (x.numel() / x.shape[1] / count)
        out = F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps)
        ctx.save_for_backward(x, weight, mean, var)
        ctx.sizes, ctx.count, ctx.eps = sizes, count, eps
        ctx.mark_non_differentiable(mean, var)
        return clear_outside(out, sizes, 2), mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, *_):
        x, weight, mean, var = ctx.saved_tensors
        # of constant statistics; the weight's has nothing from outside, where x is the mean
        grad_x, grad_weight, grad_bias = torch.ops.aten.native_batch_norm_backward(
            grad, x, weight, mean, var, None, None, False, ctx.eps, [True, True, True]
        )
        for part in _outside(grad, ctx.sizes):
            grad_bias -= part.sum((1, 2), dtype=grad_bias.dtype)
        # the statistics' share, a * x + b with numbers of each channel; rows of W * C are faster than tokens of C
        scale = weight * torch.rsqrt(var + ctx.eps) / ctx.count
        a = -scale * grad_weight * torch.rsqrt(var + ctx.eps)
        b = -scale * grad_bias - a * mean
        grad_x = grad_x.contiguous(memory_format=torch.channels_last)
        rows, inputs = (t.permute(0, 2, 3, 1).flatten(2) for t in (grad_x, x))
        rows.addcmul_(inputs, a.repeat(x.shape[3]).to(x.dtype)).add_(b.repeat(x.shape[3]).to(x.dtype))
        return clear_outside(grad_x, ctx.sizes, 2), grad_weight, grad_bias, None, None, None


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
    _track(norm, mean, var * (count / (count - 1).clamp(min=1)))
    scale = norm.weight * torch.rsqrt(var + norm.eps)
    return torch.where(real, centred * scale[:, None, None] + norm.bias[:, None, None], 0).to(x.dtype)


def pointwise(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """A 1x1 convolution of a map (B, C, H, W) as one matrix product; cuDNN would add the bias in a pass of its own."""
    return F.linear(x.permute(0, 2, 3, 1), conv.weight.flatten(1), conv.bias).permute(0, 3, 1, 2)


class Layers(nn.Sequential):
    """Convolutions, BatchNorm and ReLU in a row, on maps (B, C, H, W) that are 0 outside the pictures.

    ``sizes`` are those of the map that comes in. What comes out is 0 outside where a ReLU is the last layer. With
    ``sizes``, a layer of another kind (put in place of one of these by a wrapper) raises a TypeError; the Identity that
    mmcv's ``fuse_conv_bn`` leaves for a BatchNorm does not.
    """

    def forward(self, x: Tensor, sizes: Optional[Tensor] = None) -> Tensor:
        for layer in self:
            if sizes is not None and not isinstance(layer, (nn.Conv2d, _BatchNorm, nn.ReLU, nn.Identity)):
                raise TypeError(
                    "pictures of different sizes need nn.Conv2d, nn.BatchNorm2d or nn.SyncBatchNorm, and nn.ReLU in "
                    f"the stem and between stages, got {type(layer).__name__} from {type(layer).__module__}: let FSDP "
                    "wrap whole blocks, and use sync_bn='torch'"
                )
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
            if x.is_cuda and isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1):
                x = pointwise(layer, x)
                continue
            x = layer(x)
        return x
