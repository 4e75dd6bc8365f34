"""What must hold of SEMA attention whatever the shape: one function for each property, which raises where it does not.

``PROPERTIES`` names them. Each takes a :class:`Case` and checks it on the case's backend.
"""

from dataclasses import dataclass
from unittest import mock

import torch
from attention_checks import DEVICE, TOLERANCE, definition, output_and_gradients
from hypothesis import strategies as st
from mmsema_kernels import sema_attention

ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-5}  # absolute, for values of about 1


@dataclass(frozen=True)
class Case:
    """A shape (B, H, W, heads, d), a window, and where to run; ``seed`` gives the numbers."""

    B: int
    H: int
    W: int
    window: int
    heads: int
    d: int
    backend: str
    dtype: torch.dtype
    seed: int

    def maps(self, count=3, B=None, H=None, W=None):
        generator = torch.Generator().manual_seed(self.seed)
        shape = (B or self.B, H or self.H, W or self.W, self.heads, self.d)
        return [
            torch.randn(shape, generator=generator, dtype=torch.float64).to(DEVICE, self.dtype) for _ in range(count)
        ]

    def run(self, q, k, v, window=None):
        return sema_attention(q, k, v, window or self.window, backend=self.backend)

    def near(self, actual, expected, what):
        error = (actual - expected).abs().max().item()
        assert error <= ROUNDING[self.dtype], f"{what}: {error:.1e}"


def cases(backend):
    """Shapes that the backend takes, most of them ragged: a hypothesis strategy."""
    triton = backend == "triton"
    return st.builds(
        Case,
        B=st.integers(1, 3),
        H=st.integers(1, 12 if triton else 40),
        W=st.integers(1, 12 if triton else 40),
        window=st.integers(1, 8 if triton else 12),
        heads=st.integers(1, 2 if triton else 4),
        d=st.just(16) if triton else st.integers(1, 64),
        backend=st.just(backend),
        dtype=st.just(torch.float32) if triton else st.sampled_from([torch.float64, torch.float32]),
        seed=st.integers(0, 2**31),
    )


def equals_the_equation(case):
    """Values and gradients are those of one n x n mask in float64."""
    *inputs, grad = (t.requires_grad_() for t in case.maps(4))
    actual = output_and_gradients(case.run, inputs, grad)
    expected = output_and_gradients(lambda *t: definition(*t, case.window), inputs, grad)
    norms = [max(e.norm().item(), 0.1 * e.numel() ** 0.5) for e in expected]
    if case.window == 1 or case.H == case.W == 1:
        # one token to a window: the gradients of q and k are 0, as two equal terms cancel; the error is relative to one
        q, k, v = inputs
        term = case.d**-0.5 * (grad * v).sum(-1, keepdim=True)
        norms[1:3] = (max(norms[i], (term * other).norm().item()) for i, other in ((1, k), (2, q)))
    for a, e, norm in zip(actual, expected, norms, strict=True):
        assert (a.double() - e).norm() <= TOLERANCE[case.dtype] * norm


def whole_windows_move_together(case):
    """Rolling a map that windows divide by whole windows rolls the local part; nothing else changes."""
    H, W = (-(-n // case.window) * case.window for n in (case.H, case.W))
    q, k, v = case.maps(H=H, W=W)
    shift = (case.window * (case.seed % 3), case.window * (case.seed % 5))
    rolled = case.run(*(t.roll(shift, (1, 2)) for t in (q, k, v)))
    # the mean is a sum in another order
    case.near(rolled, case.run(q, k, v).roll(shift, (1, 2)), "rolled")


def order_in_a_window_plays_no_part(case):
    """Without positions, permuting the tokens of a window permutes its outputs."""
    q, k, v = case.maps()
    h, w = min(case.window, case.H), min(case.window, case.W)
    order = torch.randperm(h * w, generator=torch.Generator().manual_seed(case.seed)).to(q.device)

    def permute(t):
        t = t.clone()
        t[:, :h, :w] = t[:, :h, :w].flatten(1, 2)[:, order].unflatten(1, (h, w))
        return t

    case.near(case.run(*map(permute, (q, k, v))), permute(case.run(q, k, v)), "permuted")


def keys_stay_in_their_window(case):
    """Other keys in one window change no number of another."""
    q, k, v = case.maps()
    inside = (slice(None), slice(0, case.window), slice(0, case.window))
    other = k.clone()
    other[inside] = k[inside].flip(-1) + 1
    outside = torch.ones(case.H, case.W, dtype=torch.bool, device=q.device)
    outside[inside[1:]] = False
    assert torch.equal(case.run(q, other, v)[:, outside], case.run(q, k, v)[:, outside])


def pictures_do_not_meet(case):
    """A picture has the outputs and gradients that it has alone, also beside one that is not a number."""
    *inputs, grad = case.maps(4, B=2)
    alone = output_and_gradients(case.run, [t[:1].clone().requires_grad_() for t in inputs], grad[:1])
    for t in inputs:
        t[1] = torch.nan
    together = output_and_gradients(case.run, [t.requires_grad_() for t in inputs], grad)
    for a, e in zip(together, alone, strict=True):
        case.near(a[:1], e, "beside another picture")


def one_value_stays_that_value(case):
    """Weights sum to one at any size: equal values give that value from the window and once more from the mean."""
    q, k, v = case.maps()
    v = v[:, :1, :1].expand_as(v)
    case.near(case.run(q, k, v), 2 * v, "constant")


def a_shift_of_all_keys_plays_no_part(case):
    """Softmax does not see what is added to all keys alike."""
    q, k, v = case.maps()
    shift = torch.full_like(k[:1, :1, :1], 0.5)
    error = (case.run(q, k + shift, v) - case.run(q, k, v)).abs().max().item()
    assert error <= 10 * ROUNDING[case.dtype], f"{error:.1e}"


def equal_scores_average(case):
    """Queries of zero take the mean of their window; one window over the whole map gives the mean of all, twice."""
    q, k, v = case.maps()
    whole = case.run(torch.zeros_like(q), k, v, window=max(case.H, case.W)) if case.backend != "triton" else None
    mean = v.mean((1, 2), keepdim=True)
    if whole is not None:
        case.near(whole, (2 * mean).expand_as(v), "one window")
    h, w = min(case.window, case.H), min(case.window, case.W)
    out = case.run(torch.zeros_like(q), k, v)[:, :h, :w]
    case.near(out, (v[:, :h, :w].mean((1, 2), keepdim=True) + mean).expand_as(out), "first window")


def the_window_does_not_touch_the_mean(case):
    """What a constant adds to the values of all tokens comes out the same for every window size."""
    q, k, v = case.maps()
    q = torch.zeros_like(q)
    local = torch.zeros_like(v)
    for top in range(0, case.H, case.window):
        for left in range(0, case.W, case.window):
            at = (slice(None), slice(top, top + case.window), slice(left, left + case.window))
            local[at] = v[at].mean((1, 2), keepdim=True)
    mean = case.run(q, k, v) - local
    case.near(mean, v.mean((1, 2), keepdim=True).expand_as(v), "mean")


def the_same_bits_again(case):
    """Runs on the same inputs give the same bits, forward and backward."""
    *inputs, grad = (t.requires_grad_() for t in case.maps(4))
    first = output_and_gradients(case.run, inputs, grad)
    for _ in range(2):
        assert all(map(torch.equal, output_and_gradients(case.run, inputs, grad), first))


def strides_play_no_part(case):
    """Transposed, sliced and expanded inputs give what their contiguous copies give."""
    q, k, v = case.maps()
    expected = case.run(q, k, v)
    odd = torch.stack([q, q], dim=-1)[..., 0]
    turned = k.transpose(1, 2).contiguous().transpose(1, 2)
    wide = torch.cat([v, v], dim=3)[:, :, :, : case.heads]
    case.near(case.run(odd, turned, wide), expected, "strided")
    grad = torch.ones((), dtype=v.dtype, device=v.device).expand_as(v)  # a gradient without memory of its own
    inputs = [t.requires_grad_() for t in (q, k, v)]
    for a, e in zip(
        output_and_gradients(case.run, inputs, grad),
        output_and_gradients(case.run, inputs, grad.contiguous()),
        strict=True,
    ):
        case.near(a, e, "expanded gradient")


def nothing_is_read_before_it_is_written(case):
    """With memory full of NaN under every ``empty`` the results are the same."""

    def poisoned(make):
        def empty(*args, **kwargs):
            out = make(*args, **kwargs)
            return out.fill_(torch.nan) if out.is_floating_point() else out

        return empty

    *inputs, grad = (t.requires_grad_() for t in case.maps(4))
    expected = output_and_gradients(case.run, inputs, grad)
    with (
        mock.patch.object(torch, "empty", poisoned(torch.empty)),
        mock.patch.object(torch, "empty_like", poisoned(torch.empty_like)),
        mock.patch.object(torch.Tensor, "new_empty", poisoned(torch.Tensor.new_empty)),
    ):
        actual = output_and_gradients(case.run, inputs, grad)
    assert all(map(torch.equal, actual, expected))


def large_scores_stay_finite(case):
    """Scores in the thousands overflow nothing, in no gradient either."""
    q, k, v, grad = case.maps(4)
    inputs = [(200 * q).requires_grad_(), (200 * k).requires_grad_(), v.requires_grad_()]
    assert all(t.isfinite().all() for t in output_and_gradients(case.run, inputs, grad))


PROPERTIES = {
    function.__name__: function
    for function in (
        equals_the_equation,
        whole_windows_move_together,
        order_in_a_window_plays_no_part,
        keys_stay_in_their_window,
        pictures_do_not_meet,
        one_value_stays_that_value,
        a_shift_of_all_keys_plays_no_part,
        equal_scores_average,
        the_window_does_not_touch_the_mean,
        the_same_bits_again,
        strides_play_no_part,
        nothing_is_read_before_it_is_written,
        large_scores_stay_finite,
    )
}
