"""Window attention as ``mmsema::`` operators, for autograd and torch.compile. Triton is imported at the first run."""

from typing import Optional, Tuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .launch import register

_ARGUMENTS = (
    "Tensor q, Tensor k, Tensor v, Tensor? rope, int num_heads, int window_size, float scale, bool mean, "
    "Tensor? sizes=None"
)


def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rope: Optional[Tensor],
    num_heads: int,
    window_size: int,
    scale: float,
    mean: bool,
    sizes: Optional[Tensor] = None,
) -> Tensor:
    from .window_attention import window_attention_forward

    return window_attention_forward(q, k, v, rope, num_heads, window_size, scale, mean, sizes)


def _backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rope: Optional[Tensor],
    num_heads: int,
    window_size: int,
    scale: float,
    mean: bool,
    sizes: Optional[Tensor] = None,
) -> Tuple[Tensor, Tensor]:
    from .window_attention import window_attention_backward

    return window_attention_backward(grad, q, k, v, rope, num_heads, window_size, scale, mean, sizes)


def _fake_forward(q, k, v, rope, num_heads, window_size, scale, mean, sizes=None):
    return v.new_empty(v.shape)


def _fake_backward(grad, q, k, v, rope, num_heads, window_size, scale, mean, sizes=None):
    B, H, W, C = v.shape
    return v.new_empty((B, H, W, 2 * C)), v.new_empty((B, H, W, C))


register(f"window_attention({_ARGUMENTS}) -> Tensor", _forward, _fake_forward)
register(f"window_attention_backward(Tensor grad, {_ARGUMENTS}) -> (Tensor, Tensor)", _backward, _fake_backward)


class _WindowAttention(torch.autograd.Function):
    """Saves its inputs only. With ``k`` None, ``q`` holds q and k side by side, and so does its gradient."""

    @staticmethod
    def forward(ctx, q, k, v, rope, num_heads, window_size, scale, mean, sizes):
        ctx.save_for_backward(q, k, v, rope, sizes)
        ctx.arguments = num_heads, window_size, scale, mean
        if k is None:
            q, k = q.chunk(2, -1)
        return torch.ops.mmsema.window_attention(q, k, v, rope, num_heads, window_size, scale, mean, sizes)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        q, k, v, rope, sizes = ctx.saved_tensors
        packed = k is None
        if packed:
            q, k = q.chunk(2, -1)
        grad_qk, grad_v = torch.ops.mmsema.window_attention_backward(grad, q, k, v, rope, *ctx.arguments, sizes)
        grad_q, grad_k = (grad_qk, None) if packed else grad_qk.chunk(2, -1)
        return grad_q, grad_k, grad_v, *[None] * 6


def window_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rope: Optional[Tensor],
    num_heads: int,
    window_size: int,
    scale: float,
    mean: bool,
    sizes: Optional[Tensor],
) -> Tensor:
    """Differentiable window attention, plus the mean where ``mean`` says so, on (B, H, W, C) maps -> (B, H, W, C)."""
    return _WindowAttention.apply(q, k, v, rope, num_heads, window_size, scale, mean, sizes)


def window_attention_packed(
    qk: Tensor,
    v: Tensor,
    rope: Optional[Tensor],
    num_heads: int,
    window_size: int,
    scale: float,
    mean: bool,
    sizes: Optional[Tensor],
) -> Tensor:
    """The same with q and k side by side, (B, H, W, 2C): their gradient comes as one such map."""
    return _WindowAttention.apply(qk, None, v, rope, num_heads, window_size, scale, mean, sizes)
