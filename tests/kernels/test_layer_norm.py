"""LayerNorm: every backend against the formula in float64."""

import importlib
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from attention_checks import DEVICE, assert_agrees, output_and_gradients, random_maps
from mmsema_kernels import layer_norm
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend

pytest.importorskip("triton", "3.2")
from torch.library import opcheck  # noqa: E402

BACKENDS = ["triton", "torch", "padded", "reference"]
SHAPES = [(1, 1, 1, 16), (2, 5, 7, 64), (1, 33, 3, 96), (3, 8, 9, 32), (700, 24), (2, 3, 1, 768), (40,)]


def definition(x, weight, bias, eps=1e-5):
    x, weight, bias = (t.double() for t in (x, weight, bias))
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight + bias


def random_inputs(shape, dtype=torch.float32, wide=None):
    (x, grad), (weight, bias) = random_maps(shape, dtype, 2), random_maps(shape[-1:], wide or dtype, 2, seed=1)
    return [(x.detach() * 3 + 1).requires_grad_(), weight, bias], grad.detach()


def check(inputs, grad, backend, dtype, eps=1e-5):
    actual = output_and_gradients(partial(layer_norm, eps=eps, backend=backend), inputs, grad)
    expected = output_and_gradients(partial(definition, eps=eps), inputs, grad)
    for a, e, t in zip(actual, expected, [inputs[0], *inputs], strict=True):
        assert_agrees([a], [e], t.dtype)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_is_the_definition(shape, backend):
    check(*random_inputs(shape), backend, torch.float32)


@pytest.mark.parametrize("wide", [None, torch.float32])
@pytest.mark.parametrize("dtype", [torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.gpu)])
def test_half_precision(dtype, wide):
    """With weights of the same dtype, and with wider ones, whose gradients stay wide."""
    check(*random_inputs((2, 5, 9, 64), dtype, wide), "triton", dtype)


@pytest.mark.slow
@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 40_000])
def test_every_token_is_summed_once(tokens, monkeypatch):
    from mmsema_kernels import layer_norm_kernels

    monkeypatch.setattr(layer_norm_kernels, "PROGRAMS", 4)  # several tiles each
    check(*random_inputs((tokens, 64)), "triton", torch.float32)


def test_eps():
    inputs, grad = random_inputs((3, 4, 16))
    inputs[0] = (inputs[0].detach() * 1e-3).requires_grad_()
    check(inputs, grad, "triton", torch.float32, eps=1e-3)
    check(inputs, grad, "reference", torch.float32, eps=1e-3)


def test_a_large_mean_does_not_cancel():
    """The variance is that of the centred values, not a difference of two large numbers."""
    inputs, _ = random_inputs((4, 64))
    x = inputs[0].detach() + 1e3
    actual, expected = layer_norm(x, *inputs[1:], backend="triton"), definition(x, *inputs[1:])
    torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-4)


def test_strides_and_empty():
    inputs, grad = random_inputs((2, 5, 6, 32))
    expected = output_and_gradients(partial(layer_norm, backend="triton"), inputs, grad)
    x = inputs[0].detach().permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1).requires_grad_()
    actual = output_and_gradients(
        partial(layer_norm, backend="triton"), [x, *inputs[1:]], grad.transpose(1, 2).contiguous().transpose(1, 2)
    )
    assert all(torch.equal(a, e) for a, e in zip(actual, expected, strict=True))
    empty, grad = random_inputs((0, 5, 6, 32))
    out, *grads = output_and_gradients(partial(layer_norm, backend="triton"), empty, grad)
    assert out.shape == (0, 5, 6, 32) and not grads[1].any() and not grads[2].any()


def test_writes_every_element(monkeypatch):
    inputs, grad = random_inputs((2, 5, 7, 24))
    new_empty = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda *args, **kw: new_empty(*args, **kw).fill_(torch.nan))
    assert all(t.isfinite().all() for t in output_and_gradients(partial(layer_norm, backend="triton"), inputs, grad))


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_gives_its_dtype(backend):
    """What the Linear layers that read it would make of float32; gradients keep the parameters' dtype."""
    inputs, grad = random_inputs((2, 5, 6, 32))
    with torch.autocast(DEVICE, torch.float16):
        out, *grads = output_and_gradients(partial(layer_norm, backend=backend), inputs, grad)
    assert out.dtype == torch.float16 and [g.dtype for g in grads] == [torch.float32] * 3
    torch.testing.assert_close(out.float(), F.layer_norm(inputs[0], (32,), *inputs[1:]), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("backend", ["torch", "reference"])
def test_autocast_leaves_float64(backend):
    """As PyTorch's own operators do."""
    (x, weight, bias), _ = random_inputs((2, 3, 16))
    with torch.autocast(x.device.type, torch.bfloat16):
        actual = layer_norm(*(t.double() for t in (x, weight, bias)), backend=backend)
    assert actual.dtype == torch.float64


def test_operators_pass_opcheck():
    (x, weight, bias), grad = random_inputs((2, 3, 16))
    x, weight, bias = (t.detach() for t in (x, weight, bias))
    opcheck(torch.ops.mmsema.layer_norm.default, (x, weight, bias, 1e-5, torch.float16))
    opcheck(torch.ops.mmsema.layer_norm_backward.default, (grad, x, weight, 1e-5))


@pytest.mark.parametrize("backend", [None, "triton"])
def test_compiles_to_one_graph_for_all_sizes(backend):
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(partial(layer_norm, backend=backend), fullgraph=True, dynamic=True, backend=counter)
    for size in [(5, 6), (4, 7), (9, 3)]:
        inputs, grad = random_inputs((2, *size, 16))
        actual = output_and_gradients(compiled, inputs, grad)
        for a, e in zip(actual, output_and_gradients(definition, inputs, grad), strict=True):
            torch.testing.assert_close(a.double(), e.double(), rtol=1e-4, atol=1e-5)
    assert counter.frame_count == 1


def test_wrong_arguments_are_named():
    x, weight = torch.zeros(2, 16, device=DEVICE), torch.zeros(16, device=DEVICE)
    with pytest.raises(ValueError, match="eps must be > 0, got 0"):
        layer_norm(x, weight, weight, 0)
    with pytest.raises(ValueError, match=r"weight and bias must have shape \(16,\)"):
        layer_norm(x, weight[:8], weight)
    with pytest.raises(TypeError, match="x must be of a floating-point dtype, got torch.int64"):
        layer_norm(x.long(), weight, weight, backend="triton")
    with pytest.raises(ValueError, match="weight must be on the maps' device, .*, got meta"):
        layer_norm(x, weight.to("meta"), weight)
    with pytest.raises(RuntimeError, match="float64"):
        layer_norm(x.double(), weight, weight, backend="triton")
    with pytest.raises(RuntimeError, match="4096 channels at most, got 5000"):
        layer_norm(x.new_zeros(2, 5000), x.new_zeros(5000), x.new_zeros(5000), backend="triton")


def test_the_backbone_runs_it():
    from mmsema.models.block import LayerNorm

    norm = LayerNorm(16)
    nn.init.normal_(norm.weight)
    x = torch.randn(2, 3, 3, 16)
    assert isinstance(norm, nn.LayerNorm)  # what the hosts exempt from weight decay
    torch.testing.assert_close(norm(x), F.layer_norm(x, (16,), norm.weight, norm.bias), rtol=0, atol=0)


@pytest.mark.parametrize("backend", BACKENDS)
def test_autocast_rounds_the_result_and_not_what_comes_in(backend):
    """Of 1000 and a little, float16 keeps next to nothing of the little."""
    (x, weight, bias), _ = random_inputs((4, 64))
    x = x.detach() * 0.1 + 1e3
    with torch.autocast(DEVICE, torch.float16):
        actual = layer_norm(x, weight, bias, backend=backend)
    assert actual.dtype == torch.float16
    torch.testing.assert_close(actual.double(), definition(x, weight, bias), rtol=2e-3, atol=2e-3)


def test_a_backend_named_by_the_environment_runs_in_compiled_graphs(monkeypatch):
    """Only "auto" leaves it to the compiler."""
    monkeypatch.setenv("MMSEMA_KERNEL", "triton")
    inputs, _ = random_inputs((2, 3, 16))
    torch._dynamo.reset()
    graphs = []
    torch.compile(layer_norm, backend=lambda graph, _: graphs.append(str(graph.graph)) or graph.forward)(*inputs)
    assert "mmsema" in graphs[0] or "_LayerNorm" in graphs[0] or "autograd_function" in graphs[0]


def test_a_map_whose_last_program_would_count_past_int32_runs_in_pytorch(monkeypatch):
    module = importlib.import_module("mmsema_kernels.layer_norm")
    monkeypatch.setattr(module, "no_triton_on", lambda device: "")
    small, large = (torch.empty(side, side, 4, device="meta") for side in (46_000, 46_340))
    assert not module._why_not_triton(small)
    assert "too large: (46340, 46340, 4)" in module._why_not_triton(large)
