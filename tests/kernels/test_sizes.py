"""Pictures of different sizes in one batch: every operator gives each what it gives it alone."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from attention_checks import DEVICE, assert_agrees, definition, output_and_gradients, random_maps
from mmsema_kernels import (
    count_tokens,
    depthwise_residual,
    depthwise_silu,
    each_alone,
    eager,
    lepe_gate,
    mean_tokens,
    real_tokens,
    rope_table,
    sema_attention,
    sema_attention_packed,
    sizes,
    zero_outside,
)
from old_torch import needs_compiler, needs_half_on_cpu

BACKENDS = ["reference", "torch", "torch by masks", "padded", "triton"]
OPS = ["attention", "packed", "residual", "silu", "lepe_gate"]
# maps of 18 x 10: full, cut in windows, at a window's edge, one token; whole windows and strips of the kernels outside
MAP = (18, 10)
SIZES = [(18, 10), (17, 3), (7, 8), (1, 1)]
WINDOW, HEADS, C = 7, 2, 32


@pytest.fixture(params=BACKENDS)
def backend(request, monkeypatch):
    if request.param == "triton":
        pytest.importorskip("triton", "3.2")
    if request.param == "torch by masks":
        for module in (sizes, eager):
            monkeypatch.setattr(module, "can_read", lambda sizes: False)
        return "torch"
    return request.param


def as_sizes(pairs):
    return torch.tensor(pairs, dtype=torch.int32, device=DEVICE)


def run(op, x, y, z, weight, bias, backend="triton", sizes=None):
    """Any of OPS on maps (B, H, W, C); what it does not take is left alone."""
    options = dict(backend=backend, sizes=sizes)
    if op == "attention":  # without the mean
        heads = [t.unflatten(-1, (HEADS, -1)) for t in (y, z, x)]
        return sema_attention(*heads, WINDOW, rope=rope_table(WINDOW, C, x.device), mean=False, **options).flatten(-2)
    if op == "packed":
        qk = torch.cat([y, z], -1)
        return sema_attention_packed(qk, x, HEADS, WINDOW, rope=rope_table(WINDOW, C, x.device), **options)
    if op == "residual":
        return depthwise_residual(x, weight, bias, **options)
    if op == "silu":
        return depthwise_silu(x, weight, bias, **options)
    return lepe_gate(y, x, weight, bias, z, **options)


def alone(op, x, y, z, weight, bias, *, pairs):
    """The definitions in float64, for every picture cut out of the batch; 0 elsewhere."""
    outputs = []
    for b, (h, w) in enumerate(pairs):
        x1, y1, z1 = (t[b : b + 1, :h, :w].double() for t in (x, y, z))
        if op in ("attention", "packed"):
            heads = [t.unflatten(-1, (HEADS, -1)) for t in (y1, z1, x1)]
            out = definition(*heads, WINDOW, rope=True, mean=op == "packed").flatten(-2)
        else:
            chw = F.conv2d(x1.permute(0, 3, 1, 2), weight.double(), bias.double(), padding=1, groups=C)
            out = chw.permute(0, 2, 3, 1)
            out = {"residual": x1 + out, "silu": F.silu(out), "lepe_gate": z1 * (y1 + out)}[op]
        outputs.append(F.pad(out, (0, 0, 0, x.shape[2] - w, 0, x.shape[1] - h)))
    return torch.cat(outputs)


def poisoned(t, pairs):
    """NaN outside the pictures."""
    outside = ~real_tokens(as_sizes(pairs), *t.shape[1:3])
    return t.detach().masked_fill(outside[..., None], torch.nan).requires_grad_()


def random_inputs(dtype, pairs=SIZES, size=MAP):
    """The arguments of :func:`run`, NaN outside the pictures, and such a gradient of its output."""
    *maps, grad = (poisoned(t, pairs) for t in random_maps((len(pairs), *size, C), dtype, count=4))
    (weight,) = random_maps((C, 1, 3, 3), dtype, count=1, seed=1)
    (bias,) = random_maps((C,), dtype, count=1, seed=2)
    return [*maps, weight, bias], grad.detach()


def used(op):
    """Which arguments of :func:`run` an operator takes."""
    return [0, 1, 2] if op in ("attention", "packed") else [0, 3, 4] if op != "lepe_gate" else [0, 1, 2, 3, 4]


def output_and_used_gradients(fn, op, inputs, grad):
    def of_used(*taken):
        rest = list(inputs)
        for i, t in zip(used(op), taken, strict=True):
            rest[i] = t
        return fn(*rest)

    return output_and_gradients(of_used, [inputs[i] for i in used(op)], grad)


@pytest.mark.slow
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, pytest.param(torch.float16, marks=needs_half_on_cpu)])
def test_a_picture_gets_what_it_gets_alone(op, dtype, backend, monkeypatch):
    if backend == "triton" and dtype == torch.float64:
        pytest.skip("there are no kernels for float64")
    if backend != "triton" and dtype == torch.float16:  # whose products run in float16: see test_eager.py
        import attention_checks

        monkeypatch.setitem(attention_checks.TOLERANCE, dtype, 2e-3)
    inputs, grad = random_inputs(dtype)
    actual = output_and_used_gradients(partial(run, op, backend=backend, sizes=as_sizes(SIZES)), op, inputs, grad)
    expected = output_and_used_gradients(partial(alone, op, pairs=SIZES), op, inputs, grad.double())
    outside = ~real_tokens(as_sizes(SIZES), *MAP)
    for a, e in zip(actual, expected, strict=True):
        if dtype == torch.float64 and op in ("attention", "packed"):  # the table of RoPE holds float32
            torch.testing.assert_close(a, e, rtol=0, atol=1e-5)
        else:
            assert_agrees([a], [e], dtype)
        if a.shape == grad.shape:
            assert not a[outside].any()


@pytest.mark.slow
@pytest.mark.parametrize("op", OPS)
def test_sizes_of_full_maps_change_nothing(op, backend):
    inputs, grad = random_inputs(torch.float32, [(9, 8)] * 2, (9, 8))
    plain = output_and_used_gradients(partial(run, op, backend=backend), op, inputs, grad)
    full = output_and_used_gradients(partial(run, op, backend=backend, sizes=as_sizes([(9, 8)] * 2)), op, inputs, grad)
    for a, b in zip(full, plain, strict=True):
        # on a card other kernels of PyTorch attend where sizes are given
        error = 1e-5 if DEVICE == "cuda" and op in ("attention", "packed") else 2e-6
        torch.testing.assert_close(a, b, rtol=error, atol=error)


@needs_compiler
@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "triton"])
def test_compiles_to_one_graph_for_all_sizes(backend):
    """Whole graphs: nothing reads the sizes."""
    pytest.importorskip("triton", "3.2")
    from torch._dynamo.testing import CompileCounterWithBackend

    def step(x, y, z, weight, bias, sizes):
        x = depthwise_residual(x, weight, bias, sizes=sizes, backend=backend)
        y = sema_attention_packed(torch.cat([y, z], -1), x, HEADS, WINDOW, sizes=sizes, backend=backend)
        return lepe_gate(y, x, weight, bias, z, sizes=sizes, backend=backend)

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend=counter)
    for size, pairs in [((10, 9), [(10, 9), (3, 8)]), ((8, 16), [(7, 7), (8, 15)]), ((10, 9), [(2, 9), (9, 1)])]:
        inputs, grad = random_inputs(torch.float32, pairs, size)
        actual = output_and_gradients(lambda *t, pairs=pairs: compiled(*t, as_sizes(pairs)), inputs, grad)
        expected = output_and_gradients(lambda *t, pairs=pairs: step(*t, as_sizes(pairs)), inputs, grad)
        for a, e in zip(actual, expected, strict=True):
            torch.testing.assert_close(a, e, rtol=1e-5, atol=1e-5 * max(1, e.abs().max().item()))
    assert counter.frame_count <= 2


@pytest.mark.slow
def test_operators_pass_opcheck():
    pytest.importorskip("triton", "3.2")
    opcheck = torch.library.opcheck
    pairs = [(5, 6), (2, 3)]
    x, y, z, grad = (t.detach() for t in random_maps((2, 5, 6, 16), torch.float32, count=4))
    (weight,), (bias,) = random_maps((16, 1, 3, 3), torch.float32, count=1), random_maps((16,), torch.float32, count=1)
    weight, bias, sizes, ops = weight.detach(), bias.detach(), as_sizes(pairs), torch.ops.mmsema
    attention = (x, y, z, rope_table(7, 16, x.device), 1, 7, 0.25, True, sizes)
    opcheck(ops.window_attention.default, attention)
    opcheck(ops.window_attention_backward.default, (grad, *attention))
    opcheck(ops.depthwise_residual.default, (weight, bias, x, sizes))
    opcheck(ops.depthwise_silu.default, (weight, bias, x, sizes))
    opcheck(ops.depthwise_silu_backward.default, (weight, bias, x, grad, sizes))
    opcheck(ops.lepe_gate.default, (weight, bias, x, y, z, sizes))
    opcheck(ops.lepe_gate_backward.default, (weight, bias, x, y, z, grad, sizes))
    opcheck(ops.depthwise_backward.default, (weight, x, grad, True, sizes))


@pytest.mark.parametrize("size", [(1, 3), (20, 17), (40, 50)], ids=str)
def test_token_mean(size):
    """One chunk of tokens and many, some of them outside the picture."""
    pytest.importorskip("triton", "3.2")
    token_mean = pytest.importorskip("mmsema_kernels.token_mean").token_mean
    H, W = size
    pairs = [(H, W), (1, 1), (H, 1), (1, W), ((H + 1) // 2, (2 * W) // 3)]
    x = torch.randn(5, H, W, 48, device=DEVICE, generator=torch.Generator(DEVICE).manual_seed(0))
    mean = token_mean(poisoned(x, pairs).detach(), 48, as_sizes(pairs))
    expected = torch.stack([one[:h, :w].double().mean((0, 1)) for one, (h, w) in zip(x, pairs, strict=True)])
    torch.testing.assert_close(mean.double(), expected, rtol=0, atol=3e-7)


@pytest.mark.slow
def test_kernels_write_every_element(monkeypatch):
    pytest.importorskip("triton", "3.2")
    inputs, grad = random_inputs(torch.float32)
    new_empty = torch.Tensor.new_empty

    def poisoned_empty(self, *args, **options):
        out = new_empty(self, *args, **options)
        return out.fill_(torch.nan) if out.is_floating_point() else out

    monkeypatch.setattr(torch.Tensor, "new_empty", poisoned_empty)
    for op in OPS:
        for t in output_and_used_gradients(partial(run, op, sizes=as_sizes(SIZES)), op, inputs, grad):
            assert t.isfinite().all()


def test_infinity_at_the_edge_reaches_no_gradient_outside(backend):
    """The convolution beside it is infinite, too, and 0 times that would be NaN."""
    (x, *maps, weight, bias), grad = random_inputs(torch.float32, [(2, 2)])
    x.data[0, 1, 1] = torch.inf
    call = partial(run, "lepe_gate", sizes=as_sizes([(2, 2)]), backend=backend)
    _, *grads = output_and_gradients(call, [x, *maps, weight, bias], grad)
    outside = ~real_tokens(as_sizes([(2, 2)]), *MAP)
    for t in grads[:3]:
        assert not t[outside].any()


@pytest.mark.parametrize("op", ["attention", "residual", "lepe_gate"])
def test_gradcheck(op):
    """First order, and second order where PyTorch's operators have it."""
    pairs = [(3, 2), (1, 4)]
    maps = random_maps((2, 3, 4, C), count=3)
    (weight,), (bias,) = random_maps((C, 1, 3, 3), count=1), random_maps((C,), count=1)
    fn = partial(run, op, backend="torch", sizes=as_sizes(pairs))
    if op == "attention":
        fn = lambda x, y, z: sema_attention(  # noqa: E731
            *(t.unflatten(-1, (HEADS, -1)) for t in (y, z, x)), 2, sizes=as_sizes(pairs), backend="torch"
        )
    inputs = maps if op == "attention" else [*maps, weight, bias]
    assert torch.autograd.gradcheck(fn, inputs, fast_mode=True)


def test_helpers_of_the_mixers(monkeypatch):
    x, pairs = random_maps((3, 4, 5, 2, 3), count=1)[0].detach(), [(4, 5), (1, 2), (3, 1)]
    for by_masks in (False, True):
        if by_masks:
            monkeypatch.setattr(sizes, "can_read", lambda sizes: False)
        zeroed = zero_outside(x, as_sizes(pairs))
        assert torch.equal(zeroed, each_alone(lambda one: one, as_sizes(pairs), x))
        means = torch.stack([one[:h, :w].mean((0, 1)) for one, (h, w) in zip(x, pairs, strict=True)])
        torch.testing.assert_close(mean_tokens(zeroed, as_sizes(pairs))[:, 0, 0], means)
        nchw = zero_outside(x[..., 0].permute(0, 3, 1, 2), as_sizes(pairs), height_dim=2)
        assert torch.equal(nchw.permute(0, 2, 3, 1), zeroed[..., 0])
    assert count_tokens(x, as_sizes(pairs)).flatten().tolist() == [20, 2, 3]
    assert count_tokens(x, None) == 20 and zero_outside(x, None) is x
    assert torch.equal(mean_tokens(x, None), x.mean((1, 2), keepdim=True))


def test_inplace_changes_no_copy():
    x = torch.ones(1, 2, 3, 1)
    assert zero_outside(x, torch.tensor([[1, 2]], dtype=torch.int32), inplace=True) is x
    assert x.flatten().tolist() == [1, 1, 0, 0, 0, 0]
    y = torch.ones(1, 2, 3, 1)
    zero_outside(y, torch.tensor([[1, 2]], dtype=torch.int32))
    assert y.all()


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ([(1, 1), (1, 1)], TypeError, "sizes must be an int32 tensor, got list"),
        (torch.ones(2, 2), TypeError, "int32 tensor, got torch.float32"),
        (torch.ones(2, 2, dtype=torch.int64), TypeError, "int32 tensor, got torch.int64"),
        (torch.ones(3, 2, dtype=torch.int32), ValueError, r"shape \(B, 2\) = \(2, 2\), got \(3, 2\)"),
        (torch.ones(2, dtype=torch.int32), ValueError, r"got \(2,\)"),
        (torch.ones(2, 2, dtype=torch.int32, device="meta"), ValueError, "on the maps' device, cpu, got meta"),
        (
            torch.tensor([(4, 5), (0, 1)], dtype=torch.int32),
            ValueError,
            r"\(1, 1\) to the map's \(4, 5\), got \(0, 1\)",
        ),
        (torch.tensor([(4, 6), (1, 1)], dtype=torch.int32), ValueError, r"got \(4, 6\)"),
    ],
)
def test_wrong_sizes_are_named(value, error, message):
    x, weight, bias = torch.zeros(2, 4, 5, 16), torch.zeros(16, 1, 3, 3), torch.zeros(16)
    with pytest.raises(error, match=message):
        depthwise_residual(x, weight, bias, sizes=value)
    with pytest.raises(error, match=message):
        sema_attention_packed(torch.cat([x, x], -1), x, 1, sizes=value)


@pytest.mark.slow
@pytest.mark.parametrize("op", OPS)
def test_kernels_stay_inside_the_map(op, monkeypatch):
    """Numbers on a CUDA device are not looked at: whatever they are, nothing beyond the map is read or written."""
    pytest.importorskip("triton", "3.2")
    inputs = [t.detach().nan_to_num() for t in random_inputs(torch.float32)[0]]
    expected = run(op, *inputs, sizes=as_sizes([MAP] * len(SIZES)))
    monkeypatch.setattr(sizes, "can_read", lambda sizes: False)
    beyond = [(MAP[0] + 7, MAP[1]), (MAP[0], MAP[1] + 9), (10**6, 10**6), MAP]
    new_empty, borders = torch.Tensor.new_empty, []

    def bordered(self, *shape, **options):
        """A tensor with 4,096 known elements behind it."""
        like = new_empty(self, *shape, **options)
        whole = new_empty(self, like.numel() + 4096, **options).fill_(7)
        borders.append(whole[like.numel() :])
        return whole[: like.numel()].view(like.shape)

    monkeypatch.setattr(torch.Tensor, "new_empty", bordered)
    actual = run(op, *inputs, sizes=as_sizes(beyond))
    if op != "packed":  # sizes count as the map's; but the mean is divided by them as they are
        torch.testing.assert_close(actual, expected)
    assert borders and all(bool((border == 7).all()) for border in borders)


def test_empty_batch(backend):
    shapes = (0, 4, 5, 16), (16, 1, 3, 3), (16,)
    x, weight, bias = (torch.zeros(shape, device=DEVICE) for shape in shapes)
    none = torch.zeros(0, 2, dtype=torch.int32, device=DEVICE)
    assert depthwise_residual(x, weight, bias, sizes=none, backend=backend).shape == x.shape
    assert sema_attention_packed(torch.cat([x, x], -1), x, 1, sizes=none, backend=backend).shape == x.shape
