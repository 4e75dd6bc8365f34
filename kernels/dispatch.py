"""The public operator: checks its arguments, then runs the backend that fits."""

import os
from typing import Optional, Tuple

import torch
from torch import Tensor

from .eager import sema_attention_torch
from .reference import sema_attention_reference

BACKENDS = {"reference": sema_attention_reference, "torch": sema_attention_torch}
ENVIRONMENT_VARIABLE = "MMSEMA_KERNEL"
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def available_backends() -> Tuple[str, ...]:
    """Names that ``backend=`` and the environment variable MMSEMA_KERNEL accept."""
    return tuple(BACKENDS)


def _choose_backend(requested: Optional[str]) -> str:
    source, name = "backend", requested
    if name is None:
        source, name = ENVIRONMENT_VARIABLE, os.environ.get(ENVIRONMENT_VARIABLE, "auto")
    if name == "auto":
        return "torch"
    if name not in BACKENDS:
        raise ValueError(f"{source} must be one of {('auto', *BACKENDS)}, got {name!r}")
    return name


def _autocast_dtype(device_type: str) -> Optional[torch.dtype]:
    if device_type == "cpu":
        return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None
    return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None


def check_window_size(window_size: int) -> None:
    """Raise the error that names ``window_size`` unless it is an int >= 1."""
    if isinstance(window_size, bool) or not isinstance(window_size, int):
        raise TypeError(f"window_size must be an int >= 1, got {window_size!r}")
    if window_size < 1:
        raise ValueError(f"window_size must be an int >= 1, got {window_size}")


def sema_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window_size: int = 7,
    *,
    scale: Optional[float] = None,
    rope: Optional[Tensor] = None,
    backend: Optional[str] = None,
) -> Tensor:
    """Softmax attention inside local windows plus the plain mean of all values (SEMA, arXiv 2506.08297)::

        out_i = sum_{j in J(i)} softmax_j(scale * q_i . k_j) v_j  +  (1 / n) sum_{all j} v_j

    J(i) is i's window of ``window_size`` x ``window_size`` tokens, cut from the top-left corner; windows at the right and
    bottom edges may be smaller and attend over their real tokens only. n = H * W.

    Args:
        q, k, v: maps of shape (B, H, W, heads, d), any H, W >= 1; float16, bfloat16, float32 or float64, one dtype.
            Under autocast they are cast to its dtype. Any strides.
        window_size: window side in tokens, >= 1; larger than the map means one window.
        scale: factor of the scores, by default ``d ** -0.5``.
        rope: None, or :func:`mmsema_kernels.rope_table` ``(window_size, heads * d)``, which rotates q and k by their
            position inside the window.
        backend: None takes the environment variable MMSEMA_KERNEL ("auto" when unset); or a name of
            :func:`available_backends`.

    Returns:
        Tensor of shape (B, H, W, heads, d), the dtype of the inputs. Sums run in float32 or wider.

    Raises:
        TypeError: an argument has the wrong type, or the dtypes differ.
        ValueError: an argument has an impossible value; the message names it, its value and the choices.
    """
    check_window_size(window_size)
    for name, t in (("q", q), ("k", k), ("v", v)):
        if t.ndim != 5:
            raise ValueError(f"{name} must have shape (B, H, W, heads, d), got {tuple(t.shape)}")
        if t.dtype not in DTYPES:
            raise TypeError(f"{name} must be of dtype {', '.join(map(str, DTYPES))}, got {t.dtype}")
    if not q.shape == k.shape == v.shape:
        raise ValueError(f"q, k and v must have one shape, got {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}")
    B, H, W, heads, d = q.shape
    if min(H, W, heads, d) < 1:
        raise ValueError(f"H, W, heads and d must be >= 1, got q of shape {tuple(q.shape)}")
    if rope is not None and tuple(rope.shape) != (2, window_size, heads * d // 4):
        raise ValueError(f"rope must be rope_table({window_size}, {heads * d}) of shape "
                         f"{(2, window_size, heads * d // 4)}, got {tuple(rope.shape)}")  # fmt: skip
    dtype = _autocast_dtype(q.device.type)
    if dtype is not None:
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    if not q.dtype == k.dtype == v.dtype:
        raise TypeError(f"q, k and v must have one dtype, got {q.dtype}, {k.dtype}, {v.dtype}")
    run = BACKENDS[_choose_backend(backend)]
    with torch.autocast(q.device.type, enabled=False):  # the backends choose their own precision
        return run(q, k, v, window_size, scale=d**-0.5 if scale is None else scale, rope=rope)
