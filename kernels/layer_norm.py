"""LayerNorm over the channels of channels-last maps, or of any tensor (..., C)."""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .launch import asked_for, autocast_dtype, check_devices, choose_backend, is_compiling, no_triton_on, register

MOST_CHANNELS = 4096


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5, *, backend: Optional[str] = None) -> Tensor:
    """``F.layer_norm(x, (C,), weight, bias, eps)``, (..., C) -> (..., C)::

        y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias        over the last dimension, var biased

    Sums run in float32 or wider. Under autocast the result is of autocast's dtype (float64 stays), which is what the
    layers that read it would make of it: ``F.layer_norm`` gives float32 there, and each of them casts it again.

    Args:
        x: (..., C), float16, bfloat16, float32 or float64.
        weight, bias: (C), of x's dtype, or float32 for an x of 16 bits.
        eps: what is added to the variance, > 0.
        backend: as in :func:`mmsema_kernels.sema_attention`. In compiled graphs "auto" leaves it to the compiler.

    Raises:
        TypeError: x is not of a floating-point dtype.
        ValueError: weight or bias has another shape than (C,) or is on another device, or eps is not above 0.
    """
    if not x.is_floating_point():
        raise TypeError(f"x must be of a floating-point dtype, got {x.dtype}")
    if not eps > 0:
        raise ValueError(f"eps must be > 0, got {eps}")
    C = x.shape[-1] if x.ndim else 0
    if weight.shape != (C,) or bias.shape != (C,):
        raise ValueError(f"weight and bias must have shape ({C},), x's last dimension, got "
                         f"{tuple(weight.shape)} and {tuple(bias.shape)}")  # fmt: skip
    check_devices(x, weight=weight, bias=bias)
    name = choose_backend(backend, x.device, lambda: _why_not_triton(x))
    dtype = (x.dtype != torch.float64 and autocast_dtype(x.device.type)) or x.dtype
    if name == "triton" and not (asked_for(backend) == "auto" and is_compiling()):
        return _LayerNorm.apply(x, weight, bias, eps, dtype)
    if name == "reference":
        wide = torch.promote_types(x.dtype, torch.float32)
        y = F.layer_norm(x.to(wide), (C,), weight.to(wide), bias.to(wide), eps).to(x.dtype)
    else:
        y = F.layer_norm(x, (C,), weight, bias, eps)
    return y.to(dtype)


def _why_not_triton(x: Tensor) -> str:
    """Why the Triton kernels cannot take a tensor (..., C); empty if they can."""
    reason = no_triton_on(str(x.device))
    if not reason and x.dtype == torch.float64:
        reason = "there are no kernels for float64"
    if not reason and x.shape[-1] > MOST_CHANNELS:
        reason = f"there may be {MOST_CHANNELS} channels at most, got {x.shape[-1]}"
    if not reason and x.numel() // max(x.shape[-1], 1) >= 2**31 - 2**23:  # the last program's tokens may lie beyond
        reason = f"the map is too large: {tuple(x.shape)}"
    return reason


def _forward(x: Tensor, weight: Tensor, bias: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    from .layer_norm_kernels import forward

    return forward(x, weight, bias, eps, dtype)


def _backward(grad: Tensor, x: Tensor, weight: Tensor, eps: float):
    from .layer_norm_kernels import backward

    return backward(grad, x, weight, eps)


def _fake_forward(x, weight, bias, eps, dtype):
    return x.new_empty(x.shape, dtype=dtype)


def _fake_backward(grad, x, weight, eps):
    return x.new_empty(x.shape), x.new_empty(2 * x.shape[-1], dtype=torch.float32)


register(
    "layer_norm(Tensor x, Tensor weight, Tensor bias, float eps, ScalarType dtype) -> Tensor", _forward, _fake_forward
)
register(
    "layer_norm_backward(Tensor grad, Tensor x, Tensor weight, float eps) -> (Tensor, Tensor)",
    _backward,
    _fake_backward,
)


class _LayerNorm(torch.autograd.Function):
    """Saves its inputs only: mean and variance are computed again in backward, where x is read anyway."""

    @staticmethod
    def forward(ctx, x, weight, bias, eps, dtype):
        ctx.save_for_backward(x, weight, bias)
        ctx.eps = eps
        return torch.ops.mmsema.layer_norm(x, weight, bias, eps, dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, weight, bias = ctx.saved_tensors
        grad_x, sums = torch.ops.mmsema.layer_norm_backward(grad, x, weight, ctx.eps)
        grad_weight, grad_bias = sums.chunk(2)
        return grad_x, grad_weight.to(weight.dtype), grad_bias.to(bias.dtype), None, None
