"""Depthwise convolutions with their epilogues: every backend against nine shifted products in float64."""

import subprocess
import sys
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from attention_checks import DEVICE, assert_agrees, output_and_gradients, random_maps
from mmsema_kernels.depthwise import depthwise_residual, depthwise_silu, lepe_gate
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.checkpoint import checkpoint

pytest.importorskip("triton", "3.2")
from torch.library import opcheck  # noqa: E402

SIZES = [(1, 1), (1, 9), (9, 1), (7, 7), (13, 7), (8, 8), (5, 23), (16, 10), (35, 3)]
OPS = ["residual", "silu", "lepe_gate"]
BACKENDS = ["triton", "torch", "padded", "reference"]


def conv(x, weight, bias):
    """The convolution as nine shifted products."""
    _, H, W, _ = x.shape
    x = F.pad(x, (0, 0, 1, 1, 1, 1))
    return bias + sum(weight[:, 0, i, j] * x[:, i : i + H, j : j + W] for i in range(3) for j in range(3))


def definition(op, x, weight, bias, *maps):
    x, weight, bias, *maps = (t.double() for t in (x, weight, bias, *maps))
    if op == "residual":
        return x + conv(x, weight, bias)
    if op == "silu":
        return F.silu(conv(x, weight, bias))
    attention, gate = maps
    return gate * (attention + conv(x, weight, bias))


def run(op, x, weight, bias, *maps, backend="triton"):
    if op == "residual":
        return depthwise_residual(x, weight, bias, backend=backend)
    if op == "silu":
        return depthwise_silu(x, weight, bias, backend=backend)
    attention, gate = maps
    return lepe_gate(attention, x, weight, bias, gate, backend=backend)


def random_inputs(op, B, size, C, dtype=torch.float32):
    """The arguments of :func:`run` and a gradient of its output."""
    *maps, grad = random_maps((B, *size, C), dtype, count=4 if op == "lepe_gate" else 2)
    (weight,) = random_maps((C, 1, 3, 3), dtype, count=1, seed=1)
    (bias,) = random_maps((C,), dtype, count=1, seed=2)
    return [maps[0], weight, bias, *maps[1:]], grad.detach()


def assert_is_definition(op, backend, inputs, grad, dtype):
    actual = output_and_gradients(partial(run, op, backend=backend), inputs, grad)
    expected = output_and_gradients(partial(definition, op), inputs, grad)
    for a, e in zip(actual, expected, strict=True):
        assert_agrees([a], [e], dtype)


def test_definition_is_conv2d():
    (x, weight, bias), _ = random_inputs("residual", 2, (5, 6), 4, torch.float64)
    module = torch.nn.Conv2d(4, 4, 3, padding=1, groups=4, dtype=torch.float64, device=DEVICE)
    with torch.no_grad():
        module.weight.copy_(weight)
        module.bias.copy_(bias)
    torch.testing.assert_close(conv(x, weight, bias), module(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


@pytest.mark.slow
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_is_the_definition(size, backend, op):
    assert_is_definition(op, backend, *random_inputs(op, 1, size, 32), torch.float32)


@pytest.mark.slow
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("channels", [16, 64, 96])
def test_widths_and_batches(channels, backend, op):
    assert_is_definition(op, backend, *random_inputs(op, 2, (3, 9), channels), torch.float32)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype, backend, op):
    if backend == "triton" and dtype == torch.bfloat16 and DEVICE == "cpu":
        pytest.skip("Triton's interpreter truncates to bfloat16 instead of rounding")
    assert_is_definition(op, backend, *random_inputs(op, 2, (13, 10), 32, dtype), dtype)


@pytest.mark.parametrize("op", OPS)
def test_gradcheck(op):
    inputs, _ = random_inputs(op, 1, (3, 2), 2, torch.float64)
    assert torch.autograd.gradcheck(partial(run, op, backend="torch"), inputs)


@pytest.mark.parametrize("op", OPS)
def test_strides_do_not_matter(op):
    inputs, grad = random_inputs(op, 2, (5, 6), 32)
    expected = output_and_gradients(partial(run, op), inputs, grad)

    def embedded(t):
        """The map as a crop of a larger one that is NaN elsewhere, one half of packed channels."""
        B, H, W, C = t.shape
        crop = t.new_full((B, H + 4, W + 3, 2 * C), torch.nan)[:, 2:-2, 1:-2, C:]
        return crop.copy_(t).detach()

    def stored_nchw(t):
        return t.detach().permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)

    for layout in (embedded, stored_nchw):
        moved = [layout(t).requires_grad_() if t.ndim == 4 and t.shape[1] == 5 else t for t in inputs]
        assert not moved[0].is_contiguous()
        actual = output_and_gradients(partial(run, op), moved, layout(grad))
        for a, e in zip(actual, expected, strict=True):
            assert torch.equal(a, e)


@pytest.mark.parametrize("op", OPS)
def test_expanded_gradient(op):
    inputs, grad = random_inputs(op, 1, (5, 6), 32)
    actual = torch.autograd.grad(run(op, *inputs).sum(), inputs)
    for a, e in zip(actual, output_and_gradients(partial(run, op), inputs, torch.ones_like(grad))[1:], strict=True):
        assert torch.equal(a, e)


@pytest.mark.slow
@pytest.mark.parametrize("op", OPS)
def test_writes_every_element(op, monkeypatch):
    inputs, grad = random_inputs(op, 2, (18, 9), 32)
    new_empty = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *args, **kw: new_empty(*args, **kw).fill_(torch.nan))
    for t in output_and_gradients(partial(run, op), inputs, grad):
        assert t.isfinite().all()


@pytest.mark.slow
@pytest.mark.parametrize("op", OPS)
def test_same_bits_at_every_run_and_batch_split(op):
    inputs, grad = random_inputs(op, 3, (9, 10), 16)
    first = output_and_gradients(partial(run, op), inputs, grad)
    for _ in range(20 if DEVICE == "cuda" else 1):  # the interpreter runs one program after another
        again = output_and_gradients(partial(run, op), inputs, grad)
        assert all(torch.equal(a, b) for a, b in zip(again, first, strict=True))
    single = [t[1:2] if t.shape[0] == 3 else t for t in inputs]
    alone = output_and_gradients(partial(run, op), single, grad[1:2])
    for a, b in zip(alone, first, strict=True):
        if a.ndim == 4 and a.shape[1] == 9:  # the maps: output and their gradients
            assert torch.equal(a, b[1:2])


def test_a_nan_stays_in_its_neighbourhood():
    (x, weight, bias), grad = random_inputs("residual", 1, (20, 12), 32)
    poisoned = x.detach().clone()
    poisoned[0, 16, 8, 3] = torch.nan
    bad = depthwise_residual(poisoned, weight, bias, backend="triton").isnan()
    expected = torch.zeros_like(bad)
    expected[0, 15:18, 7:10, 3] = True
    assert torch.equal(bad, expected)
    grad[0, 16, 8, 3] = torch.nan
    (grad_x,) = torch.autograd.grad(depthwise_residual(x, weight, bias, backend="triton"), x, grad)
    assert torch.equal(grad_x.isnan(), expected)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_empty_batch(backend, op):
    inputs, grad = random_inputs(op, 0, (5, 6), 32)
    out, *grads = output_and_gradients(partial(run, op, backend=backend), inputs, grad)
    assert out.shape == (0, 5, 6, 32)
    for t, g in zip(inputs, grads, strict=True):
        assert g.shape == t.shape and not g.any()


@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_saves_what_needs_no_gradient(backend):
    """A frozen convolution passes the gradient on."""
    (x, weight, bias), grad = random_inputs("silu", 1, (5, 6), 32)
    frozen = depthwise_silu(x, weight.detach(), bias.detach(), backend=backend)
    free = depthwise_silu(x, weight, bias, backend=backend)
    torch.testing.assert_close(torch.autograd.grad(frozen, x, grad), torch.autograd.grad(free, x, grad), rtol=0, atol=0)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_casts_as_conv2d_does(backend, op):
    inputs, grad = random_inputs(op, 1, (5, 6), 32)
    halves = [t.detach().to(torch.float16).requires_grad_() for t in inputs]
    expected = output_and_gradients(partial(definition, op), halves, grad)
    with torch.autocast(DEVICE, torch.float16):
        actual = output_and_gradients(partial(run, op, backend=backend), inputs, grad)
    assert actual[0].dtype == torch.float16
    for a, e, t in zip(actual, expected, [None, *inputs], strict=True):
        assert t is None or a.dtype == t.dtype  # gradients keep the dtype of the parameters
        assert_agrees([a.half()], [e], torch.float16)


def test_gradients_of_wider_weights_are_not_rounded():
    (x, weight, bias), grad = random_inputs("residual", 1, (5, 6), 32)
    x, grad = x.detach().half(), grad.half()
    out = depthwise_residual(x, weight, bias, backend="triton")
    actual = torch.autograd.grad(out, (weight, bias), grad)
    expected = torch.autograd.grad(definition("residual", x, weight, bias), (weight, bias), grad.double())
    for a, e in zip(actual, expected, strict=True):
        assert_agrees([a], [e], torch.float32)


@pytest.mark.parametrize("op", OPS)
def test_activation_checkpointing(op):
    inputs, grad = random_inputs(op, 1, (5, 6), 32)
    expected = output_and_gradients(partial(run, op), inputs, grad)
    actual = output_and_gradients(lambda *t: checkpoint(partial(run, op), *t, use_reentrant=False), inputs, grad)
    assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))


@pytest.mark.slow
def test_operators_pass_opcheck():
    (v, weight, bias, attention, gate), grad = random_inputs("lepe_gate", 1, (5, 6), 16)
    v, weight, bias, attention, gate = (t.detach() for t in (v, weight, bias, attention, gate))
    ops = torch.ops.mmsema
    opcheck(ops.depthwise_residual.default, (weight, bias, v))
    opcheck(ops.depthwise_silu.default, (weight, bias, v))
    opcheck(ops.depthwise_silu_backward.default, (weight, bias, v, grad))
    opcheck(ops.lepe_gate.default, (weight, bias, v, attention, gate))
    opcheck(ops.lepe_gate_backward.default, (weight, bias, v, attention, gate, grad))
    opcheck(ops.depthwise_backward.default, (weight, v, grad, True))
    opcheck(
        ops.depthwise_backward.default, (weight, v.transpose(1, 2), grad[:, :1].expand(1, 6, 6, 16)[:, :, :5], False)
    )


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_compiles_to_one_graph_for_all_sizes(backend):
    def block(attention, x, weight, bias, gate):
        x = depthwise_residual(x, weight, bias, backend=backend)
        return lepe_gate(
            attention, depthwise_silu(x, weight, bias, backend=backend), weight, bias, gate, backend=backend
        )

    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(block, fullgraph=True, dynamic=True, backend=counter)
    for size in [(5, 6), (4, 7), (9, 3)]:
        (x, weight, bias, attention, gate), grad = random_inputs("lepe_gate", 2, size, 16)
        inputs = (attention, x, weight / 9, bias, gate)
        actual = output_and_gradients(compiled, inputs, grad)
        for a, e in zip(actual, output_and_gradients(block, inputs, grad), strict=True):
            torch.testing.assert_close(a, e, rtol=1e-5, atol=1e-5)
    assert counter.frame_count == 1
    with torch.autocast(DEVICE, torch.float16):
        assert compiled(*inputs).dtype == torch.float16


def test_wrong_arguments_are_named():
    (v, weight, bias, attention, gate), _ = random_inputs("lepe_gate", 1, (2, 3), 16)
    with pytest.raises(ValueError, match=r"x must have shape \(B, H, W, C\)"):
        depthwise_silu(v[0], weight, bias)
    with pytest.raises(ValueError, match="gate must have the shape of v"):
        lepe_gate(attention, v, weight, bias, gate[:, :1])
    with pytest.raises(TypeError, match="attention must have the dtype of v"):
        lepe_gate(attention.double(), v, weight, bias, gate)
    with pytest.raises(TypeError, match="floating-point"):
        depthwise_silu(v.int(), weight, bias)
    with pytest.raises(ValueError, match="bias must be on the maps' device, .*, got meta"):
        depthwise_silu(v, weight, bias.to("meta"))
    with pytest.raises(ValueError, match="gate must be on the maps' device"):
        lepe_gate(attention, v, weight, bias, gate.to("meta"))
    with pytest.raises(ValueError, match="weight and bias must have shapes"):
        depthwise_residual(v, weight[:8], bias)
    with pytest.raises(ValueError, match="backend must be one of"):
        depthwise_residual(v, weight, bias, backend="cuda")


def test_triton_says_why_it_cannot_run(monkeypatch):
    (x, weight, bias), _ = random_inputs("silu", 1, (2, 3), 16)
    with pytest.raises(RuntimeError, match="multiple of 16, got 8"):
        depthwise_silu(x[..., :8], weight[:8], bias[:8], backend="triton")
    with pytest.raises(RuntimeError, match="float64"):
        depthwise_silu(x.double(), weight, bias, backend="triton")
    monkeypatch.setenv("MMSEMA_KERNEL", "triton")
    with pytest.raises(RuntimeError, match="MMSEMA_KERNEL is 'triton', which cannot run here"):
        depthwise_silu(x.double(), weight, bias)


def test_works_without_triton():
    script = """if True:
        import sys
        sys.modules["triton"] = None
        import torch
        from mmsema_kernels.depthwise import depthwise_residual
        x, weight, bias = torch.ones(1, 2, 2, 16), torch.ones(16, 1, 3, 3), torch.ones(16)
        assert (depthwise_residual(x, weight, bias) == 6).all()
        try:
            depthwise_residual(x, weight, bias, backend="triton")
        except RuntimeError as error:
            assert "Triton is not installed" in str(error)
        else:
            raise AssertionError
    """
    subprocess.run([sys.executable, "-c", script], check=True)
