"""The backbone on the Triton kernels, in Triton's interpreter where there is no CUDA device."""

import os

import pytest
import torch
from commands import free_port
from torch._subclasses import FakeTensorMode

from mmsema import MILA, SEMA
from mmsema.models.block import MambaLikeBlock
from mmsema.models.mixers import LinearMixer, SEMAMixer

pytest.importorskip("triton", "3.2")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def loss(outputs):
    """A weighted sum of all outputs: of their squares, which LayerNorm fixes, the gradients would be 0."""
    generator = torch.Generator().manual_seed(1)
    return sum((out * torch.randn(out.shape[1:], generator=generator).to(out)).mean() for out in outputs)


def outputs_and_gradients(model, *inputs):
    outputs = model(*inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    loss(outputs).backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad()
    return outputs, gradients


@pytest.mark.slow
@pytest.mark.parametrize("backbone", [SEMA, MILA])
def test_backbone_equals_the_reference(backbone, monkeypatch):
    """Outputs and the gradients of all parameters, on maps that no window divides."""
    torch.manual_seed(0)
    model = backbone("pico").to(DEVICE).eval()  # BatchNorm has too few numbers to average here
    for name, p in model.named_parameters():
        if "qk_proj.weight" in name:
            p.data *= 30  # as initialised, attention is almost uniform, whatever q and k are
    x = torch.randn(1, 3, 43, 34, device=DEVICE)
    monkeypatch.setenv("MMSEMA_KERNEL", "reference")
    expected = outputs_and_gradients(model, x)
    monkeypatch.setenv("MMSEMA_KERNEL", "triton")
    actual = outputs_and_gradients(model, x)
    for a, e in zip(actual[0], expected[0], strict=True):
        torch.testing.assert_close(a, e, rtol=1e-4, atol=1e-5)
    for name, e in expected[1].items():
        torch.testing.assert_close(actual[1][name], e, rtol=1e-3, atol=1e-3 * e.abs().max().item(), msg=name)


def test_block_runs_nothing_but_kernels(monkeypatch):
    """No depthwise convolution, attention or LayerNorm of a block is left to PyTorch."""
    monkeypatch.setenv("MMSEMA_KERNEL", "triton")
    block = MambaLikeBlock(32, 2, 7, 0.0, SEMAMixer).to(DEVICE)
    with torch.profiler.profile() as profile, torch.no_grad():
        block(torch.randn(1, 5, 9, 32, device=DEVICE))
    calls = {event.key: event.count for event in profile.key_averages()}
    ours = {name: count for name, count in calls.items() if name.startswith("mmsema::")}
    assert ours == {
        "mmsema::depthwise_residual": 2,
        "mmsema::depthwise_silu": 1,
        "mmsema::lepe_gate": 1,
        "mmsema::window_attention": 1,
        "mmsema::layer_norm": 2,
    }
    assert not any(word in name for name in calls for word in ("conv", "softmax", "aten::native_layer_norm"))


@pytest.mark.slow
@pytest.mark.parametrize("mixer", [SEMAMixer, LinearMixer])
def test_autocast(mixer, monkeypatch):
    torch.manual_seed(0)
    block = MambaLikeBlock(32, 2, 7, 0.0, mixer).to(DEVICE)
    x = torch.randn(1, 5, 9, 32, device=DEVICE)
    monkeypatch.setenv("MMSEMA_KERNEL", "reference")
    (expected,), expected_gradients = outputs_and_gradients(block, x)
    monkeypatch.setenv("MMSEMA_KERNEL", "triton")
    with torch.autocast(DEVICE, torch.float16):
        (actual,), gradients = outputs_and_gradients(block, x)
    assert actual.dtype == torch.float16
    torch.testing.assert_close(actual.float(), expected, rtol=1e-2, atol=1e-2)
    for name, e in expected_gradients.items():
        assert gradients[name].dtype == torch.float32
        assert (gradients[name] - e).norm() <= 2e-2 * e.norm() + 1e-5, name


@pytest.mark.slow
def test_with_cp_recomputes_the_kernels(monkeypatch):
    monkeypatch.setenv("MMSEMA_KERNEL", "triton")
    x = torch.randn(2, 3, 33, 40, device=DEVICE)
    results = []
    for with_cp in (False, True):
        torch.manual_seed(0)
        model = SEMA("pico", out_indices=(0,), with_cp=with_cp).to(DEVICE).train()
        results.append(outputs_and_gradients(model, x)[1])
    assert all(torch.equal(results[1][name], gradient) for name, gradient in results[0].items())


@pytest.mark.slow
@torch._dynamo.config.patch(specialize_float=True)  # or the graphs read BatchNorm's eps from a tensor
def test_tiny_compiles_to_two_graphs_for_six_sizes(monkeypatch):
    """Without a graph break. Nothing is computed: tests/kernels has the numbers of the compiled kernels."""
    graphs = []

    def shapes_only(graph, _):
        """A compiler whose code returns zeros in the shapes that the graph's operators announce."""
        graphs.append(graph)

        def run(*inputs):
            with FakeTensorMode(allow_non_fake_inputs=True) as mode:
                fakes = [mode.from_tensor(t) if isinstance(t, torch.Tensor) else t for t in inputs]
                outputs = graph(*fakes)
            return [torch.zeros(t.shape, dtype=t.dtype, device=t.device) for t in outputs]

        return run

    monkeypatch.setenv("MMSEMA_KERNEL", "triton")
    model = SEMA("tiny").to(DEVICE).eval()
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend=shapes_only)
    for H, W in [(64, 72), (224, 224), (200, 333), (65, 130), (97, 80), (256, 192)]:
        with torch.no_grad():
            outputs = compiled(torch.randn(2, 3, H, W, device=DEVICE))
        assert [out.shape[2:] for out in outputs] == [(-(-H // s), -(-W // s)) for s in (4, 8, 16, 32)]
    assert 1 <= len(graphs) <= 2


def run_ddp(rank, port, path):
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), MMSEMA_KERNEL="triton", TRITON_INTERPRET="1")
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = SEMA("pico", out_indices=(0,)).eval()
    x = torch.randn(2, 3, 33, 40)[rank : rank + 1]
    parallel = torch.nn.parallel.DistributedDataParallel(model)  # its hooks die with it
    loss(parallel(x)).backward()
    torch.save({name: p.grad for name, p in model.named_parameters()}, f"{path}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(DEVICE == "cuda", reason="two processes share the CPU through Triton's interpreter")
def test_ddp_averages_the_gradients(tmp_path, monkeypatch):
    port = free_port()
    torch.multiprocessing.spawn(run_ddp, (port, str(tmp_path)), nprocs=2)
    monkeypatch.setenv("MMSEMA_KERNEL", "torch")
    torch.manual_seed(0)
    model = SEMA("pico", out_indices=(0,)).eval()
    _, expected = outputs_and_gradients(model, torch.randn(2, 3, 33, 40))
    for rank in range(2):
        actual = torch.load(tmp_path / f"{rank}.pt")
        for name, e in expected.items():
            torch.testing.assert_close(actual[name], e, rtol=1e-3, atol=1e-3 * e.abs().max().item(), msg=name)
