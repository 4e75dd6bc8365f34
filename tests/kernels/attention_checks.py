"""What the tests of the attention backends share: an independent definition in float64, tolerances, sizes, inputs."""

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

# Relative error in norm that a backend may show against the float64 definition on the same rounded inputs. The largest
# single error may be PEAK times the error expected of the dtype, relative to the largest value.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 6e-3}
EXPECTED = {torch.float64: 1e-15, torch.float32: 2e-7, torch.float16: 4e-4, torch.bfloat16: 3e-3}
PEAK = 20

# (H, W): whole windows, ragged edges of every kind, edges of one token, windows larger than the map on one or both axes
SIZES = [(7, 7), (14, 14), (10, 16), (5, 23), (1, 1), (1, 9), (9, 1), (3, 20), (4, 5), (8, 8), (13, 7)]


def definition(q, k, v, window_size, scale=None, rope=False, mean=True):
    """SEMA attention on (B, H, W, heads, d) maps by one n x n mask, in float64; rotations in map coordinates."""
    B, H, W, heads, d = q.shape
    q, k, v = (t.double().reshape(B, H * W, heads, d) for t in (q, k, v))
    row = torch.arange(H, device=q.device).repeat_interleave(W)
    col = torch.arange(W, device=q.device).repeat(H)
    if rope:
        quarter = heads * d // 4
        theta = 10000.0 ** -(torch.arange(quarter, device=q.device, dtype=torch.float64) / quarter)
        angle = torch.cat([row[:, None] * theta, col[:, None] * theta], dim=1)  # (n, C/2)
        turn = torch.polar(torch.ones_like(angle), angle).reshape(H * W, heads, d // 2)
        q, k = (torch.view_as_real(torch.view_as_complex(t.reshape(*t.shape[:-1], -1, 2)) * turn) for t in (q, k))
        q, k = (t.reshape(B, H * W, heads, d) for t in (q, k))
    window = (row // window_size) * W + col // window_size  # a name for every window
    scores = torch.einsum("bihd,bjhd->bhij", q, k) * (d**-0.5 if scale is None else scale)
    scores = scores.masked_fill(window[:, None] != window[None, :], -torch.inf)
    local = torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v)
    return (local + mean * v.mean(1, keepdim=True)).reshape(B, H, W, heads, d)


def random_maps(shape, dtype=torch.float64, count=3, seed=0):
    """``count`` maps of normal numbers, leaves that require grad."""
    generator = torch.Generator().manual_seed(seed)
    maps = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count))
    return [t.to(DEVICE, dtype).requires_grad_() for t in maps]


def output_and_gradients(fn, inputs, grad):
    """``fn(*inputs)`` and the gradients of all inputs, for the gradient ``grad`` of the output."""
    out = fn(*inputs)
    return [out, *torch.autograd.grad(out, inputs, grad.to(out.dtype))]


def assert_agrees(actual, expected, dtype):
    """Every tensor of ``actual``, of type ``dtype``, is within the tolerances of its float64 counterpart."""
    for name, a, e in zip(("output", "grad 1", "grad 2", "grad 3"), actual, expected, strict=False):
        assert a.dtype == dtype and a.shape == e.shape, name
        assert a.isfinite().all(), name
        difference, e = (a.double() - e).detach(), e.detach()
        # a gradient that is 0 by cancellation (one token in a window: its weight is 1) is compared with the inputs
        norm = max(e.norm().item(), e.numel() ** 0.5 * 0.1)
        assert difference.norm() <= TOLERANCE[dtype] * norm, f"{name}: {difference.norm() / norm:.1e}"
        assert difference.abs().max() <= PEAK * EXPECTED[dtype] * max(e.abs().max().item(), 1.0), name
