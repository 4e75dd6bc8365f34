"""The Triton kernels: compiled on a CUDA device, otherwise in Triton's interpreter."""

import pytest
import torch
from attention_checks import DEVICE, SIZES, assert_agrees, definition, output_and_gradients, random_maps
from mmsema_kernels import rope_table, sema_attention, sema_attention_packed

pytest.importorskip("triton", "3.2")
window_attention = pytest.importorskip("mmsema_kernels.window_attention")
token_mean = pytest.importorskip("mmsema_kernels.token_mean")

DTYPES = [
    torch.float32,
    torch.float16,
    pytest.param(torch.bfloat16, marks=pytest.mark.gpu),  # the interpreter multiplies it wrongly
]


def check(shape, dtype, window_size, rope=True, scale=None, seed=0, mean=True):
    """Output and all gradients of the kernels against the float64 definition."""
    q, k, v, grad = random_maps(shape, dtype, count=4, seed=seed)
    table = rope_table(window_size, shape[-2] * shape[-1], q.device) if rope else None
    run = lambda *t: sema_attention(*t, window_size, scale=scale, rope=table, mean=mean, backend="triton")  # noqa: E731
    expected = output_and_gradients(lambda *t: definition(*t, window_size, scale, rope, mean), (q, k, v), grad)
    assert_agrees(output_and_gradients(run, (q, k, v), grad), expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_every_size(size, dtype):
    check((1, *size, 2, 32), dtype, 7)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window_size", [2, 4, 5, 7, 8])
def test_every_window_size(window_size, dtype):
    check((1, 9, 10, 2, 16), dtype, window_size)
    check((1, 2 * window_size, window_size, 1, 32), dtype, window_size, rope=False)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("heads", [1, 2, 3, 4, 6, 16])
def test_every_number_of_heads(heads, batch, dtype):
    check((batch, 5, 9, heads, 16), dtype, 7)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rope", [False, True])
@pytest.mark.parametrize("d", [16, 32, 64])
def test_every_head_dim(d, rope, dtype):
    if d == 64 and dtype == torch.float32:
        pytest.skip("float32 with 64 channels per head runs in PyTorch")
    check((1, 8, 10, 3, d), dtype, 7, rope=rope, scale=0.4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_without_the_mean(dtype):
    check((2, 8, 10, 2, 32), dtype, 7, mean=False)


@pytest.mark.slow
def test_56x56():
    check((1, 56, 56, 2, 32), torch.float32, 7)


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_scores(dtype):
    """The row's maximum is subtracted before exp2: scores of 1e4 overflow nothing.

    Where a row's two best scores are near each other, rounding q and k decides between them: those are not compared.
    """
    q, k, v = (t.detach() for t in random_maps((1, 7, 7, 1, 32), dtype))
    q, k = q * 60, k * 60
    first, second = (q.double().view(49, 32) @ k.double().view(49, 32).T * 32**-0.5).topk(2).values.T
    clear = (first - second).view(1, 7, 7) > 100
    expected = definition(q, k, v, 7)
    actual = sema_attention(q, k, v, 7, backend="triton")
    assert expected.isfinite().all() and actual.isfinite().all() and clear.sum() > 40
    torch.testing.assert_close(actual.double()[clear], expected[clear], rtol=2e-2, atol=2e-2)


def test_empty_batch():
    q, k, v = random_maps((0, 7, 7, 2, 32), torch.float32)
    out = sema_attention(q, k, v, backend="triton")
    assert out.shape == q.shape
    assert [g.shape for g in torch.autograd.grad(out.sum(), (q, k, v))] == [q.shape] * 3


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [(7, 7), (5, 9), (8, 8)], ids=str)
def test_packed_projection(size, dtype):
    """Packed q and k give bit for bit what separate ones give; their gradient is one contiguous map."""
    q, k, v, grad = random_maps((2, *size, 3, 32), dtype, count=4)
    table = rope_table(7, 96, q.device)
    separate = output_and_gradients(lambda *t: sema_attention(*t, 7, rope=table, backend="triton"), (q, k, v), grad)
    qk = torch.cat([q.flatten(-2), k.flatten(-2)], -1).detach().requires_grad_()
    flat = v.flatten(-2).detach().requires_grad_()
    out = sema_attention_packed(qk, flat, 3, 7, rope=table, backend="triton")
    grad_qk, grad_v = torch.autograd.grad(out, (qk, flat), grad.flatten(-2))
    assert grad_qk.is_contiguous()
    packed = [out, *grad_qk.chunk(2, -1), grad_v]
    assert all(torch.equal(p, s.flatten(-2)) for p, s in zip(packed, separate, strict=True))


LAYOUTS = {
    "two views of a packed projection": lambda t: torch.cat([t, t], -1)[..., : t.shape[-1]],
    "crop": lambda t: torch.nn.functional.pad(t, (0, 0, 2, 3, 1, 2), value=torch.nan)[:, 1:-2, 2:-3],
    "NCHW": lambda t: t.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1),
    "transposed": lambda t: t.transpose(1, 2).contiguous().transpose(1, 2),
    "offset": lambda t: torch.cat([t.new_full((5,), torch.nan), t.flatten()])[5:].view(t.shape),
    "token stride of 4C": lambda t: torch.cat([t] * 4, -1)[..., : t.shape[-1]],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [(5, 9), (1, 9), (9, 1), (1, 1)], ids=str)
def test_any_strides(layout, size):
    q, k, v, grad = (t.detach() for t in random_maps((2, *size, 32), torch.float32, count=4))
    arguments = (None, 2, 7, 0.25, True)

    def same(a, b):
        if layout == "offset":  # unaligned maps are read in other blocks, in which the mean is summed in another order
            return torch.allclose(a, b, rtol=0, atol=1e-6)
        return torch.equal(a, b)

    plain = window_attention.window_attention_forward(q, k, v, *arguments)
    plain_grads = window_attention.window_attention_backward(grad, q, k, v, *arguments)
    q, k, v, grad = (LAYOUTS[layout](t) for t in (q, k, v, grad))
    assert same(plain, window_attention.window_attention_forward(q, k, v, *arguments))
    grads = window_attention.window_attention_backward(grad, q, k, v, *arguments)
    assert all(same(a, b) for a, b in zip(grads, plain_grads, strict=True))


def test_a_table_of_any_strides():
    q, k, v = (t.detach() for t in random_maps((1, 7, 9, 2, 16), torch.float32))
    wide = rope_table(14, 32, q.device)[:, :7]
    expected, actual = (sema_attention(q, k, v, 7, rope=table, backend="triton") for table in (wide.contiguous(), wide))
    assert not wide.is_contiguous() and torch.equal(actual, expected)


def test_expanded_gradient():
    q, k, v = random_maps((1, 5, 9, 2, 16), torch.float32)
    grads = torch.autograd.grad(sema_attention(q, k, v, backend="triton").sum(), (q, k, v))  # of stride 0
    expected = torch.autograd.grad(definition(q, k, v, 7).sum(), (q, k, v))
    for a, e in zip(grads, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=0, atol=2e-6)


@pytest.mark.parametrize("size", [(7, 7), (5, 9), (8, 8), (1, 1)], ids=str)
def test_writes_all_of_its_outputs_and_nothing_else(size, monkeypatch):
    """Outputs lie in a larger buffer of NaN: every element of them is written, none beside them."""
    q, k, v, grad = (t.detach() for t in random_maps((2, *size, 32), torch.float16, count=4))
    buffers = []

    new_empty = torch.Tensor.new_empty

    def poisoned(self, shape, **options):
        if options:  # the interpreter's own
            return new_empty(self, shape, **options)
        n = torch.Size(shape).numel()
        buffers.append((self.new_full((n + 4096,), torch.nan), n))
        return buffers[-1][0][2048 : 2048 + n].view(shape)

    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned)
    window_attention.window_attention_forward(q, k, v, None, 2, 7, 0.25, True)
    window_attention.window_attention_backward(grad, q, k, v, None, 2, 7, 0.25, True)
    assert len(buffers) == 3
    for buffer, n in buffers:
        assert buffer[2048 : 2048 + n].isfinite().all()
        assert buffer[:2048].isnan().all() and buffer[2048 + n :].isnan().all()


def test_nan_stays_in_its_window():
    q, k, v = (t.detach() for t in random_maps((1, 10, 9, 2, 16), torch.float32))
    clean = sema_attention(q, k, v, backend="triton")
    spoilt_q, spoilt_k = q.clone(), k.clone()
    spoilt_q[0, 8, 8, 1, 3] = torch.nan
    changed = sema_attention(spoilt_q, k, v, backend="triton") != clean
    assert changed.nonzero()[:, :4].unique(dim=0).tolist() == [[0, 8, 8, 1]]  # one token, one head
    spoilt_k[0, 8, 8, 1, 3] = torch.nan
    changed = sema_attention(q, spoilt_k, v, backend="triton").isnan().any(-1)
    assert changed.sum() == 3 * 2 and changed[0, 7:, 7:, 1].all()  # the corner window, one head


@pytest.mark.slow
def test_bit_identical_over_repeats_and_batch_splits():
    q, k, v, grad = random_maps((2, 8, 9, 1, 32), torch.float16, count=4)
    table = rope_table(7, 32, q.device)
    run = lambda *t: sema_attention(*t, 7, rope=table, backend="triton")  # noqa: E731
    first = output_and_gradients(run, (q, k, v), grad)
    for _ in range(20):
        again = output_and_gradients(run, (q, k, v), grad)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    for i in range(2):
        one = [t[i : i + 1].detach().requires_grad_() for t in (q, k, v)]
        alone = output_and_gradients(run, one, grad[i : i + 1])
        assert all(torch.equal(a, b[i : i + 1]) for a, b in zip(alone, first, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 255, 256, 257, 1000, 4096, 66_800])
def test_token_mean(tokens):
    x = torch.randn(2, 1, tokens, 48, device=DEVICE, generator=torch.Generator(DEVICE).manual_seed(0))
    mean = token_mean.token_mean(x, 48)
    assert mean.shape == (2, 48) and mean.dtype == torch.float32
    torch.testing.assert_close(mean.double(), x.double().mean((1, 2)), rtol=0, atol=3e-7)


def test_mean_is_not_rounded_before_it_is_added():
    """With constant values the output is exactly twice the value; in float16, 2 * (1 + 2^-10) has no shorter way."""
    v = torch.full((1, 9, 30, 2, 16), 1 + 2**-10, dtype=torch.float16, device=DEVICE)
    q, k = (t.detach() for t in random_maps(v.shape, torch.float16, count=2))
    torch.testing.assert_close(sema_attention(q, k, v, backend="triton"), 2 * v, rtol=1e-3, atol=0)
    far = torch.zeros_like(v)
    far[0, 0, 0] = 1.0  # every other window receives 1 / n
    out = sema_attention(q, k, far, backend="triton")
    assert torch.equal(out[:, :, 7:], torch.full_like(out[:, :, 7:], 1 / 270))


def test_refuses_four_warps_on_hopper(monkeypatch):
    assert window_attention.check_num_warps(2, (9, 0)) == 2
    assert window_attention.check_num_warps(4, (8, 0)) == 4
    for num_warps in (4, 8):
        with pytest.raises(RuntimeError, match="compute capability 9.0"):
            window_attention.check_num_warps(num_warps, (9, 0))
    q, k, v = (t.detach() for t in random_maps((1, 7, 7, 32), torch.float32))
    monkeypatch.setattr(window_attention, "_capability", lambda device: (9, 0))
    window_attention.window_attention_forward(q, k, v, None, 2, 7, 0.25, True)
    monkeypatch.setattr(window_attention, "NUM_WARPS", 4)  # both launchers ask
    with pytest.raises(RuntimeError, match="compute capability 9.0"):
        window_attention.window_attention_forward(q, k, v, None, 2, 7, 0.25, True)
    with pytest.raises(RuntimeError, match="compute capability 9.0"):
        window_attention.window_attention_backward(v, q, k, v, None, 2, 7, 0.25, True)
