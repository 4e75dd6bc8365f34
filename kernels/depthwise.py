"""The 3x3 depthwise convolutions of a block together with what the block does next, on channels-last maps.

``conv`` is ``nn.Conv2d(C, C, 3, padding=1, groups=C)`` on maps (B, H, W, C), any H, W >= 1, with its weight
(C, 1, 3, 3) and bias (C). Maps are float16, bfloat16, float32 or float64, of one dtype and any strides; under autocast
they are cast to its dtype, as conv's would be. Weight and bias may be wider: they are rounded to the maps' dtype, and
their gradients keep their own. ``sizes`` and ``backend`` are those of :func:`mmsema_kernels.sema_attention`: outside a
picture of a padded batch the convolution reads 0, and the result and all gradients are 0. On a device no one looks at
the numbers in ``sizes``: those beyond the map count as the map's.
"""

from functools import partial
from typing import Callable, Optional, Tuple, Type

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .launch import autocast, autocast_off, check_devices, choose_backend, no_triton_on, register
from .sizes import can_read, check_sizes, clear_outside, each_alone, zero_outside


def depthwise_residual(
    x: Tensor, weight: Tensor, bias: Tensor, *, sizes: Optional[Tensor] = None, backend: Optional[str] = None
) -> Tensor:
    """x + conv(x), (B, H, W, C) -> (B, H, W, C)."""
    (x,) = autocast(x)
    return _run(_Residual, _residual, sizes, backend, weight, bias, x=x)


def depthwise_silu(
    x: Tensor, weight: Tensor, bias: Tensor, *, sizes: Optional[Tensor] = None, backend: Optional[str] = None
) -> Tensor:
    """silu(conv(x)), (B, H, W, C) -> (B, H, W, C)."""
    (x,) = autocast(x)
    return _run(_SiLU, _silu, sizes, backend, weight, bias, x=x)


def lepe_gate(
    attention: Tensor,
    v: Tensor,
    weight: Tensor,
    bias: Tensor,
    gate: Tensor,
    *,
    sizes: Optional[Tensor] = None,
    backend: Optional[str] = None,
) -> Tensor:
    """gate * (attention + conv(v)); all maps and the result are (B, H, W, C)."""
    v, attention, gate = autocast(v, attention, gate)
    return _run(_LePEGate, _lepe_gate, sizes, backend, weight, bias, v=v, attention=attention, gate=gate)


def why_not_triton(x: Tensor) -> str:
    """Why the Triton kernels cannot take a map of shape (B, H, W, C); empty if they can."""
    B, H, W, C = x.shape
    reason = no_triton_on(str(x.device))
    if reason:
        return reason
    if x.dtype == torch.float64:
        return "there are no kernels for float64"
    if C % 16:
        return f"the number of channels must be a multiple of 16, got {C}"
    if B > 65535 or H > 65535 or W * C >= 2**31:
        return f"the map is too large: {tuple(x.shape)}"
    return ""


def _run(
    function: Type[torch.autograd.Function],
    definition: Callable,
    sizes: Optional[Tensor],
    backend: Optional[str],
    weight: Tensor,
    bias: Tensor,
    **maps: Tensor,
) -> Tensor:
    name, x = next(iter(maps.items()))
    if x.ndim != 4 or any(n < 1 for n in x.shape[1:]):
        raise ValueError(f"{name} must have shape (B, H, W, C) with H, W, C >= 1, got {tuple(x.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"{name} must be of a floating-point dtype, got {x.dtype}")
    for other, t in maps.items():
        if t.shape != x.shape:
            raise ValueError(f"{other} must have the shape of {name}, {tuple(x.shape)}, got {tuple(t.shape)}")
        if t.dtype != x.dtype:
            raise TypeError(f"{other} must have the dtype of {name}, {x.dtype}, got {t.dtype}")
    C = x.shape[-1]
    if weight.shape != (C, 1, 3, 3) or bias.shape != (C,):
        raise ValueError(f"weight and bias must have shapes {(C, 1, 3, 3)} and {(C,)}, got "
                         f"{tuple(weight.shape)} and {tuple(bias.shape)}")  # fmt: skip
    check_devices(x, **maps, weight=weight, bias=bias)
    check_sizes(sizes, x)
    backend = choose_backend(backend, x.device, lambda: why_not_triton(x))
    if backend == "triton":
        return function.apply(weight, bias, sizes, *maps.values())
    with autocast_off(x.device.type):
        weight, bias = weight.to(x.dtype), bias.to(x.dtype)

        def run(weight: Tensor, bias: Tensor, sizes: Optional[Tensor], x: Tensor, *maps: Tensor) -> Tensor:
            if sizes is not None and can_read(sizes) and torch.is_grad_enabled():
                images = (t.permute(0, 3, 1, 2) for t in (x, *maps))  # without a copy
                return _Sliced.apply(definition, sizes, weight, bias, *images).permute(0, 2, 3, 1)
            images = (t.permute(0, 3, 1, 2) for t in (zero_outside(x, sizes), *maps))
            return definition(weight, bias, sizes, *images).permute(0, 2, 3, 1)

        if backend != "reference":  # convolutions need no padded form
            return run(weight, bias, sizes, *maps.values())
        wide = torch.promote_types(x.dtype, torch.float32)
        run = partial(run, weight.to(wide), bias.to(wide), None)
        wider = [t.to(wide) for t in maps.values()]
        return (run(*wider) if sizes is None else each_alone(run, sizes, *wider)).to(x.dtype)


# The definition. It is also the PyTorch path: on the CPU nothing in PyTorch is faster than its own convolution. Here
# maps are (B, C, H, W), in PyTorch's channels_last format; the first is 0 outside the pictures. What a function makes
# is changed in place where no gradient needs it.


def _conv(weight: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    return F.conv2d(x, weight, bias, padding=1, groups=x.shape[1])


def _residual(weight: Tensor, bias: Tensor, sizes: Optional[Tensor], x: Tensor) -> Tensor:
    return zero_outside(_conv(weight, bias, x).add_(x), sizes, height_dim=2, inplace=True)


def _silu(weight: Tensor, bias: Tensor, sizes: Optional[Tensor], x: Tensor) -> Tensor:
    z = zero_outside(_conv(weight, bias, x), sizes, height_dim=2, inplace=True)
    return F.silu(z, inplace=not torch.is_grad_enabled())


def _lepe_gate(
    weight: Tensor, bias: Tensor, sizes: Optional[Tensor], v: Tensor, attention: Tensor, gate: Tensor
) -> Tensor:
    total = zero_outside(_conv(weight, bias, v).add_(attention), sizes, height_dim=2, inplace=True)
    out = gate * total if torch.is_grad_enabled() else total.mul_(gate)
    return zero_outside(out, sizes, height_dim=2, inplace=True)


class _Sliced(torch.autograd.Function):
    """The same where the sizes can be read, with one copy of a map in forward and at most one in backward.

    Autograd would copy every gradient before it is cleared, as it may have other readers; those made here have none.
    """

    @staticmethod
    def forward(ctx, definition, sizes, weight, bias, x, attention=None, gate=None):
        x = clear_outside(x.clone(), sizes, 2)
        z = _conv(weight, bias, x)
        if definition is _residual:
            out, kept = clear_outside(z.add_(x), sizes, 2), ()
        elif definition is _silu:
            out, kept = F.silu(clear_outside(z, sizes, 2)), (z,)
        else:
            out, kept = clear_outside(gate * clear_outside(z.add_(attention), sizes, 2), sizes, 2), (z, gate)
        ctx.save_for_backward(weight, x, *kept)
        ctx.definition, ctx.sizes = definition, sizes
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        weight, x, *kept = ctx.saved_tensors
        others = ()
        if ctx.definition is _residual:
            grad = clear_outside(grad.clone(), ctx.sizes, 2)
        elif ctx.definition is _silu:
            grad = clear_outside(torch.ops.aten.silu_backward(grad, *kept), ctx.sizes, 2)
        else:
            z, gate = kept
            grad_gate = clear_outside(grad * z, ctx.sizes, 2)
            grad = clear_outside(grad * gate, ctx.sizes, 2)
            others = (grad, grad_gate)
        C, needed = x.shape[1], [ctx.needs_input_grad[i] for i in (4, 2, 3)]
        grad_x, grad_weight, grad_bias = torch.ops.aten.convolution_backward(
            grad, x, weight, [C], [1, 1], [1, 1], [1, 1], False, [0, 0], C, needed
        )
        if grad_x is not None:
            clear_outside(grad_x.add_(grad) if ctx.definition is _residual else grad_x, ctx.sizes, 2)
        return None, None, grad_weight, grad_bias, grad_x, *others


# The Triton path: one operator of torch.ops.mmsema per launch. Triton is imported when one first runs.


def _kernel(name: str) -> Callable:
    def run(*args):
        from . import depthwise_kernels

        return getattr(depthwise_kernels, name)(*args)

    return run


def _fake_map(weight, bias, x, *maps):
    return x.new_empty(x.shape)


def _fake_two_maps(weight, bias, x, *maps):
    return x.new_empty(x.shape), x.new_empty(x.shape)


def _fake_backward(weight, x, grad, residual, sizes=None):
    return x.new_empty(x.shape), x.new_empty(10 * x.shape[-1], dtype=torch.float32)


_CONV = "Tensor weight, Tensor bias, Tensor x"
_SIZES = "Tensor? sizes=None"
register(f"depthwise_residual({_CONV}, {_SIZES}) -> Tensor", _kernel("residual"), _fake_map)
register(f"depthwise_silu({_CONV}, {_SIZES}) -> Tensor", _kernel("silu"), _fake_map)
register(f"depthwise_silu_backward({_CONV}, Tensor grad, {_SIZES}) -> Tensor", _kernel("silu_backward"), _fake_map)
register(f"lepe_gate({_CONV}, Tensor attention, Tensor gate, {_SIZES}) -> Tensor", _kernel("lepe_gate"), _fake_map)
register(
    f"lepe_gate_backward({_CONV}, Tensor attention, Tensor gate, Tensor grad, {_SIZES}) -> (Tensor, Tensor)",
    _kernel("lepe_gate_backward"),
    _fake_two_maps,
)
register(
    f"depthwise_backward(Tensor weight, Tensor x, Tensor grad, bool residual, {_SIZES}) -> (Tensor, Tensor)",
    _kernel("backward"),
    _fake_backward,
)


def _conv_grads(
    weight: Tensor, bias: Tensor, x: Tensor, grad: Tensor, residual: bool, sizes: Optional[Tensor]
) -> Tuple[Tensor, Tensor, None, Tensor]:
    """Gradients of weight, bias, (sizes) and x from that of conv(x), or of x + conv(x)."""
    grad_x, sums = torch.ops.mmsema.depthwise_backward(weight, x, grad, residual, sizes)
    grad_weight, grad_bias = sums.split([weight.numel(), bias.numel()])
    return grad_weight.view(weight.shape).to(weight.dtype), grad_bias.to(bias.dtype), None, grad_x


class _Residual(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight, bias, sizes, x):
        ctx.save_for_backward(weight, bias, sizes, x)
        return torch.ops.mmsema.depthwise_residual(weight, bias, x, sizes)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        weight, bias, sizes, x = ctx.saved_tensors
        return _conv_grads(weight, bias, x, grad, True, sizes)


class _SiLU(torch.autograd.Function):
    """Saves its input only: the convolution runs again in backward."""

    @staticmethod
    def forward(ctx, weight, bias, sizes, x):
        ctx.save_for_backward(weight, bias, sizes, x)
        return torch.ops.mmsema.depthwise_silu(weight, bias, x, sizes)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        weight, bias, sizes, x = ctx.saved_tensors
        grad = torch.ops.mmsema.depthwise_silu_backward(weight, bias, x, grad, sizes)
        return _conv_grads(weight, bias, x, grad, False, sizes)


class _LePEGate(torch.autograd.Function):
    """Saves its inputs only: the convolution runs again in backward. attention and conv(v) have one gradient."""

    @staticmethod
    def forward(ctx, weight, bias, sizes, v, attention, gate):
        ctx.save_for_backward(weight, bias, sizes, v, attention, gate)
        return torch.ops.mmsema.lepe_gate(weight, bias, v, attention, gate, sizes)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        weight, bias, sizes, v, attention, gate = ctx.saved_tensors
        grad_sum, grad_gate = torch.ops.mmsema.lepe_gate_backward(weight, bias, v, attention, gate, grad, sizes)
        return *_conv_grads(weight, bias, v, grad_sum, False, sizes), grad_sum, grad_gate
