"""The public operator: checks its arguments, then runs the backend that fits."""

from typing import Optional, Tuple

import torch
from torch import Tensor

from .eager import sema_attention_torch
from .launch import BACKENDS, autocast, autocast_off, check_devices, choose_backend, no_triton_on
from .ops import window_attention, window_attention_packed
from .padded import sema_attention_padded
from .reference import sema_attention_reference
from .sizes import check_sizes

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def available_backends() -> Tuple[str, ...]:
    """Names that ``backend=`` and the environment variable MMSEMA_KERNEL accept besides "auto"."""
    return BACKENDS


def can_run_triton(v: Tensor, window_size: int, scale: float, rope: Optional[Tensor] = None) -> Tuple[bool, str]:
    """Whether the Triton kernels can take values of shape (B, H, W, heads, d), and why not if they cannot."""
    B, H, W, heads, d = v.shape
    reason = no_triton_on(str(v.device))
    if reason:
        pass
    elif v.dtype == torch.float64:
        reason = "there are no kernels for float64"
    elif v.dtype == torch.bfloat16 and v.device.type == "cpu":
        reason = "Triton's interpreter multiplies bfloat16 wrongly"
    elif window_size > 8:
        reason = f"a window holds at most 8 x 8 tokens, got window_size={window_size}"
    elif d not in (16, 32, 64):
        reason = f"a head must have 16, 32 or 64 channels, got {d}"
    elif d == 64 and v.dtype == torch.float32:
        reason = "with 64 channels per head in float32 the kernels run out of registers"
    elif not scale > 0:
        reason = f"scale must be positive, got {scale}"
    elif rope is not None and rope.requires_grad:
        reason = "the kernels give no gradient for rope"
    elif B > 65535 or H > 65535 or 2 * window_size * W * heads * d >= 2**31 or H * W >= 2**31:
        reason = f"the map is too large: {tuple(v.shape)}"
    return not reason, reason


def _choose_backend(requested: Optional[str], v: Tensor, window_size: int, scale: float, rope: Optional[Tensor]) -> str:
    return choose_backend(requested, v.device, lambda: can_run_triton(v, window_size, scale, rope)[1])


def check_window_size(window_size: int) -> None:
    """Raise the error that names ``window_size`` unless it is an int >= 1."""
    if isinstance(window_size, bool) or not isinstance(window_size, int):
        raise TypeError(f"window_size must be an int >= 1, got {window_size!r}")
    if window_size < 1:
        raise ValueError(f"window_size must be an int >= 1, got {window_size}")


def _check_maps(**maps: Tensor) -> None:
    for name, t in maps.items():
        if t.dtype not in DTYPES:
            raise TypeError(f"{name} must be of dtype {', '.join(map(str, DTYPES))}, got {t.dtype}")
    if len({t.dtype for t in maps.values()}) > 1:
        *names, last = maps
        found = ", ".join(str(t.dtype) for t in maps.values())
        raise TypeError(f"{', '.join(names)} and {last} must have one dtype, got {found}")
    check_devices(next(iter(maps.values())), **maps)


def _prepare(
    v: Tensor,
    window_size: int,
    scale: Optional[float],
    rope: Optional[Tensor],
    sizes: Optional[Tensor],
    backend: Optional[str],
) -> Tuple[str, float]:
    """Check what :func:`sema_attention` takes besides q and k, and choose: the backend's name and the scale."""
    check_window_size(window_size)
    B, H, W, heads, d = v.shape
    if any(n < 1 for n in (H, W, heads, d)):
        raise ValueError(f"H, W, heads and d must be >= 1, got v of shape {tuple(v.shape)}")
    if rope is not None and tuple(rope.shape) != (2, window_size, heads * d // 4):
        raise ValueError(f"rope must be rope_table({window_size}, {heads * d}) of shape "
                         f"{(2, window_size, heads * d // 4)}, got {tuple(rope.shape)}")  # fmt: skip
    check_devices(v, rope=rope)
    check_sizes(sizes, v)
    scale = d**-0.5 if scale is None else scale
    return _choose_backend(backend, v, window_size, scale, rope), scale


def sema_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    window_size: int = 7,
    *,
    scale: Optional[float] = None,
    rope: Optional[Tensor] = None,
    mean: bool = True,
    sizes: Optional[Tensor] = None,
    backend: Optional[str] = None,
) -> Tensor:
    """Softmax attention inside local windows plus the plain mean of all values (SEMA, arXiv 2506.08297)::

        out_i = sum_{j in J(i)} softmax_j(scale * q_i . k_j) v_j  +  (1 / n) sum_{all j} v_j

    J(i) is i's window of ``window_size`` x ``window_size`` tokens, cut from the top-left corner; windows at the right
    and bottom edges may be smaller and attend over their real tokens only. n = H * W.

    Args:
        q, k, v: maps of shape (B, H, W, heads, d), any H, W >= 1; float16, bfloat16, float32 or float64, one dtype.
            Under autocast they are cast to its dtype. Any strides.
        window_size: window side in tokens, >= 1; larger than the map means one window.
        scale: factor of the scores, by default ``d ** -0.5``.
        rope: None, or :func:`mmsema_kernels.rope_table` ``(window_size, heads * d)``, which rotates q and k by their
            position inside the window.
        mean: whether to add the mean; without it this is window attention and nothing else.
        sizes: None, or the (h, w) of every picture in tokens where a batch is padded: (B, 2), int32, on q's device,
            1 <= h <= H, 1 <= w <= W. Picture b is ``[b, :h, :w]`` and gets what it would get alone; outside it the
            result and all gradients are 0, whatever the inputs hold there.
        backend: None takes the environment variable MMSEMA_KERNEL ("auto" when unset); or a name of
            :func:`available_backends`.

    Returns:
        Tensor of shape (B, H, W, heads, d), the dtype of the inputs. Sums run in float32 or wider.

    Raises:
        TypeError: an argument has the wrong type, or the dtypes differ.
        ValueError: an argument has an impossible value; the message names it, its value and the choices.
    """
    q, k, v = autocast(q, k, v)
    for argument, t in (("q", q), ("k", k), ("v", v)):
        if t.ndim != 5:
            raise ValueError(f"{argument} must have shape (B, H, W, heads, d), got {tuple(t.shape)}")
    if not q.shape == k.shape == v.shape:
        raise ValueError(f"q, k and v must have one shape, got {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}")
    _check_maps(q=q, k=k, v=v)
    name, scale = _prepare(v, window_size, scale, rope, sizes, backend)
    with autocast_off(q.device.type):  # the backends choose their own precision
        if name == "triton":
            heads, d = v.shape[-2:]
            q, k, v = q.flatten(-2), k.flatten(-2), v.flatten(-2)  # (B, H, W, C)
            out = window_attention(q, k, v, rope, heads, window_size, scale, mean, sizes)
            return out.unflatten(-1, (heads, d))
        run = dict(torch=sema_attention_torch, padded=sema_attention_padded, reference=sema_attention_reference)[name]
        return run(q, k, v, window_size, scale=scale, rope=rope, mean=mean, sizes=sizes)


def sema_attention_packed(
    qk: Tensor,
    v: Tensor,
    num_heads: int,
    window_size: int = 7,
    *,
    scale: Optional[float] = None,
    rope: Optional[Tensor] = None,
    mean: bool = True,
    sizes: Optional[Tensor] = None,
    backend: Optional[str] = None,
) -> Tensor:
    """:func:`sema_attention` of q and k side by side, as one projection gives them.

    The Triton backend then also writes their gradients side by side, where autograd would copy both into one map.

    Args:
        qk: (B, H, W, 2C), q in the first C channels.
        v: (B, H, W, C), of ``num_heads`` heads.
        window_size, scale, rope, mean, sizes, backend: as in :func:`sema_attention`.

    Returns:
        Tensor of shape (B, H, W, C).
    """
    if num_heads < 1 or v.ndim != 4 or v.shape[-1] % num_heads:
        raise ValueError(f"v must have shape (B, H, W, C), C a multiple of num_heads={num_heads}, got {tuple(v.shape)}")
    if qk.shape != (*v.shape[:-1], 2 * v.shape[-1]):
        raise ValueError(f"qk must have twice the channels of v, got {tuple(qk.shape)} and {tuple(v.shape)}")
    qk, v = autocast(qk, v)
    _check_maps(qk=qk, v=v)
    values = v.unflatten(-1, (num_heads, -1))
    name, scale = _prepare(values, window_size, scale, rope, sizes, backend)
    if name == "triton":
        return window_attention_packed(qk, v, rope, num_heads, window_size, scale, mean, sizes)
    q, k = (t.unflatten(-1, (num_heads, -1)) for t in qk.chunk(2, -1))
    out = sema_attention(q, k, values, window_size, scale=scale, rope=rope, mean=mean, sizes=sizes, backend=name)
    return out.flatten(-2)
