import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from attention_checks import DEVICE, definition, output_and_gradients, random_maps
from mmsema_kernels import (
    available_backends,
    can_run_triton,
    dispatch,
    launch,
    rope_table,
    sema_attention,
    sema_attention_packed,
    use_backend,
)

SIZES = [(7, 7), (5, 9), (8, 8), (14, 7), (3, 20), (10, 16)]


@pytest.fixture
def maps():
    return [t.detach() for t in random_maps((2, 5, 9, 2, 16), torch.float32)]


def packed(q, k, v):
    return torch.cat([q.flatten(-2), k.flatten(-2)], -1), v.flatten(-2)


def needs_triton():
    pytest.importorskip("triton", "3.2")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(window_size=0), ValueError, "window_size must be an int >= 1, got 0"),
        (dict(window_size=7.0), TypeError, "window_size must be an int >= 1, got 7.0"),
        (dict(window_size=True), TypeError, "window_size"),
        (
            dict(backend="cuda"),
            ValueError,
            "backend must be one of .*'auto', 'triton', 'torch', 'padded', 'reference'.*'cuda'",
        ),
        (dict(rope=torch.zeros(2, 7, 4)), ValueError, r"rope must be rope_table\(7, 32\)"),
        (dict(q=torch.zeros(2, 5, 9, 32)), ValueError, "q must have shape"),
        (dict(k=torch.zeros(2, 5, 9, 2, 8)), ValueError, "one shape"),
        (dict(v=torch.zeros(2, 5, 9, 2, 16, dtype=torch.int64)), TypeError, "v must be of dtype"),
        (dict(v=torch.zeros(2, 5, 9, 2, 16, dtype=torch.float64)), TypeError, "one dtype"),
        (dict(k=torch.zeros(2, 5, 9, 2, 16, device="meta")), ValueError, "k must be on the maps' device, .*, got meta"),
        (dict(rope=torch.zeros(2, 7, 8, device="meta")), ValueError, "rope must be on the maps' device"),
    ],
)
def test_bad_arguments(maps, arguments, error, message):
    with pytest.raises(error, match=message):
        sema_attention(**{**dict(zip("qkv", maps, strict=True)), **arguments})


def test_bad_packed_arguments(maps):
    qk, v = packed(*maps)
    for arguments in ((qk, v, 0), (qk, v, 5), (qk, v[0], 2)):
        with pytest.raises(ValueError, match="v must have shape"):
            sema_attention_packed(*arguments)
    with pytest.raises(ValueError, match="twice the channels"):
        sema_attention_packed(v, v, 2)


@pytest.mark.parametrize("backend", available_backends())
def test_all_backends_agree(backend):
    """Separate and packed, output and gradients; an image does not depend on its batch mates."""
    if backend == "triton":
        needs_triton()
    q, k, v, grad = random_maps((2, 5, 9, 2, 16), torch.float32, count=4)
    table = rope_table(4, 32, q.device)
    expected = output_and_gradients(lambda *t: definition(*t, 4, rope=True), (q, k, v), grad)
    run = lambda *t: sema_attention(*t, 4, rope=table, backend=backend)  # noqa: E731
    run_packed = lambda *t: sema_attention_packed(*packed(*t), 2, 4, rope=table, backend=backend)  # noqa: E731
    for actual in (
        output_and_gradients(run, (q, k, v), grad),
        output_and_gradients(run_packed, (q, k, v), grad.flatten(-2)),
    ):
        for a, e in zip(actual, expected, strict=True):
            torch.testing.assert_close(a.double().view_as(e), e.double(), rtol=0, atol=3e-6)
    alone = run(q[1:], k[1:], v[1:])
    torch.testing.assert_close(alone, run(q, k, v)[1:], rtol=0, atol=1e-6)
    torch.testing.assert_close(alone, run(q[1:], k[1:], v[1:]), rtol=0, atol=0)


@pytest.mark.parametrize("backend", available_backends())
def test_reads_only_its_map(backend):
    """The maps are crops of buffers full of NaN."""
    if backend == "triton":
        needs_triton()
    q, k, v = (t.detach() for t in random_maps((1, 5, 9, 2, 16), torch.float32))
    crops = [torch.full((3, 12, 16, 4, 24), torch.nan, device=DEVICE)[1:2, 3:8, 4:13, 1:3, 5:21] for _ in "qkv"]
    for crop, t in zip(crops, (q, k, v), strict=True):
        crop.copy_(t)
    result = sema_attention(*crops, 7, backend=backend)
    torch.testing.assert_close(result, sema_attention(q, k, v, 7, backend=backend), rtol=0, atol=1e-6)


def test_environment_variable(maps, monkeypatch):
    seen = []
    monkeypatch.setattr(dispatch, "sema_attention_reference", lambda q, *_, **__: seen.append("reference") or q)
    monkeypatch.setattr(dispatch, "sema_attention_torch", lambda q, *_, **__: seen.append("torch") or q)
    monkeypatch.setenv("MMSEMA_KERNEL", "reference")
    sema_attention(*maps)
    sema_attention(*maps, backend="torch")  # the argument is stronger
    assert seen == ["reference", "torch"]
    monkeypatch.setenv("MMSEMA_KERNEL", "cudnn")
    with pytest.raises(ValueError, match="MMSEMA_KERNEL must be one of"):
        sema_attention(*maps)


def test_use_backend(maps, monkeypatch):
    """It goes before the environment, behind the argument, and ends with its block, nested or left by an error."""
    seen = []
    for name in ("reference", "torch", "padded"):
        run = lambda q, *_, name=name, **__: seen.append(name) or q  # noqa: E731
        monkeypatch.setattr(dispatch, f"sema_attention_{name}", run)
    monkeypatch.setenv("MMSEMA_KERNEL", "padded")
    with use_backend("reference"):
        sema_attention(*maps)
        sema_attention(*maps, backend="torch")
        with pytest.raises(KeyError), use_backend("torch"):
            sema_attention(*maps)
            raise KeyError
        sema_attention(*maps)
    sema_attention(*maps)
    assert seen == ["reference", "torch", "torch", "reference", "padded"]
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with use_backend("triton"), pytest.raises(RuntimeError, match="use_backend is 'triton', which cannot run here"):
        sema_attention(*(t.cpu() for t in maps))
    with pytest.raises(ValueError, match=r"name must be one of .*, got 'cudnn'"), use_backend("cudnn"):
        pass
    with pytest.raises(ValueError, match=r"backend must be one of .*, got ''"):
        sema_attention(*maps, backend="")


def test_use_backend_holds_for_compiled_graphs(maps, monkeypatch):
    """Also for one that was compiled before, without any backend named."""
    monkeypatch.delenv("MMSEMA_KERNEL", raising=False)
    torch._dynamo.reset()
    graphs = []

    def record(graph, _):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(sema_attention, backend=record)
    compiled(*maps)
    with use_backend("reference"):
        compiled(*maps)
    compiled(*maps)
    assert len(graphs) == 2 and str(graphs[0].graph) != str(graphs[1].graph)


def test_auto_on_the_cpu_is_torch(maps, monkeypatch):
    seen = []
    monkeypatch.delenv("MMSEMA_KERNEL", raising=False)
    monkeypatch.setattr(dispatch, "sema_attention_torch", lambda q, *_, **__: seen.append("torch") or q)
    sema_attention(*(t.cpu() for t in maps))
    sema_attention(*(t.cpu() for t in maps), backend="auto")
    assert seen == ["torch", "torch"]


def like_cuda(**changes):
    """Stands for values on a CUDA device, of which only the properties are read."""
    properties = dict(shape=(2, 56, 56, 4, 32), dtype=torch.float16, device=torch.device("cuda:0"), is_cuda=True)
    return type("Values", (), {**properties, **changes})()


@pytest.mark.parametrize(
    ("changes", "arguments", "reason"),
    [
        (dict(), dict(), ""),
        (dict(dtype=torch.bfloat16), dict(window_size=8), ""),
        (dict(shape=(2, 7, 7, 3, 16), dtype=torch.float32), dict(window_size=1), ""),
        (dict(shape=(2, 7, 7, 3, 64)), dict(), ""),
        (dict(dtype=torch.float64), dict(), "float64"),
        (dict(shape=(2, 7, 7, 3, 48)), dict(), "16, 32 or 64 channels, got 48"),
        (dict(shape=(2, 7, 7, 3, 64), dtype=torch.float32), dict(), "out of registers"),
        (dict(shape=(65536, 7, 7, 3, 16)), dict(), "too large"),
        (dict(shape=(1, 7, 10_000_000, 1, 16)), dict(), "too large"),
        (dict(shape=(1, 65535, 32769, 1, 16)), dict(window_size=1), "too large"),
        (dict(), dict(window_size=9), "at most 8 x 8 tokens, got window_size=9"),
        (dict(), dict(scale=0.0), "scale must be positive"),
        (dict(), dict(rope=torch.zeros(1, requires_grad=True)), "no gradient for rope"),
    ],
)
def test_what_triton_can_run(monkeypatch, changes, arguments, reason):
    monkeypatch.setattr(dispatch, "no_triton_on", lambda device: "")
    monkeypatch.delenv("MMSEMA_KERNEL", raising=False)
    values, arguments = like_cuda(**changes), {**dict(window_size=7, scale=0.2, rope=None), **arguments}
    possible, why = can_run_triton(values, **arguments)
    assert possible == (not reason) and reason in why
    assert dispatch._choose_backend(None, values, **arguments) == ("torch" if reason else "triton")
    if reason:
        with pytest.raises(RuntimeError, match="backend is 'triton', which cannot run here: "):
            dispatch._choose_backend("triton", values, **arguments)


def test_exports_padded(monkeypatch):
    """While exporting or tracing neither the kernels run nor the path that branches on the map's size."""
    monkeypatch.setattr(dispatch, "no_triton_on", lambda device: "")
    for module, name in (
        (torch.jit, "is_tracing"),
        (torch.onnx, "is_in_onnx_export"),
        (torch.compiler, "is_exporting"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, lambda: True, raising=False)
            assert dispatch._choose_backend("auto", like_cuda(), 7, 0.2, None) == "padded"
    assert dispatch._choose_backend("auto", like_cuda(), 7, 0.2, None) == "triton"


def test_devices_and_versions_of_triton(monkeypatch):
    triton = pytest.importorskip("triton", "3.2")
    monkeypatch.setattr(launch, "_no_triton_on", launch._no_triton_on.__wrapped__)  # what it says is remembered
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert "set TRITON_INTERPRET=1" in launch.no_triton_on("cpu")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert launch.no_triton_on("cpu") == ""
    assert "CUDA devices only" in launch.no_triton_on("mps:0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert "compute capability 7.5 is below 8.0" in launch.no_triton_on("cuda:0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert launch.no_triton_on("cuda:0") == ""
    with monkeypatch.context() as patch:
        patch.setattr(torch.version, "hip", "6.2")  # its devices are named cuda, too
        assert "not for ROCm" in launch.no_triton_on("cuda:0")
    monkeypatch.setattr(triton, "__version__", "2.1.0")
    assert "Triton 2.1.0 is older than 3.2" in launch.no_triton_on("cuda:0")
    monkeypatch.setattr(launch, "find_spec", lambda name: None)
    assert "not installed" in launch.no_triton_on("cuda:0")


@pytest.mark.parametrize("backend", ["auto", "torch", "padded", "reference"])
def test_shapes_on_the_meta_device(backend):
    """Which knows no autocast."""
    maps = [torch.empty(2, 5, 9, 2, 16, device="meta", dtype=torch.float16) for _ in "qkv"]
    sized = None if backend == "reference" else torch.empty(2, 2, device="meta", dtype=torch.int32)
    rope = rope_table(7, 32).to("meta")
    for sizes in (None, sized):
        out = sema_attention(*maps, rope=rope, sizes=sizes, backend=backend)
        assert out.shape == maps[0].shape and out.dtype == torch.float16


def test_autocast_leaves_integers_alone(maps):
    """They are refused with it as without it."""
    for enabled in (False, True):
        with torch.autocast(DEVICE, torch.bfloat16, enabled), pytest.raises(TypeError, match="must be of dtype"):
            sema_attention(*(t.int() for t in maps))


def test_bfloat16_is_refused_in_the_interpreter(maps, monkeypatch):
    needs_triton()
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert "bfloat16" in can_run_triton(maps[2].cpu().bfloat16(), 7, 0.2)[1]


def test_runs_without_triton():
    """The import loads no Triton; where there is none, the PyTorch backends run and the error says so."""
    script = """
import sys, torch, mmsema_kernels as kernels
assert "triton" not in sys.modules or "torch._inductor" in sys.modules
assert "mmsema_kernels.window_attention" not in sys.modules
import importlib.util
kernels.launch.find_spec = lambda name: None
sys.modules["triton"] = None
q = torch.randn(1, 5, 9, 2, 16)
kernels.sema_attention(q, q, q)
try:
    kernels.sema_attention(q, q, q, backend="triton")
except RuntimeError as error:
    assert "Triton is not installed" in str(error), error
else:
    raise SystemExit("no error")
"""
    environment = {k: v for k, v in os.environ.items() if k != "MMSEMA_KERNEL"}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)


def test_opcheck():
    needs_triton()
    q, k, v, grad = (t.detach() for t in random_maps((1, 5, 9, 32), torch.float32, count=4))
    arguments = (q, k, v, rope_table(7, 32, q.device), 2, 7, 0.25, True)
    torch.library.opcheck(torch.ops.mmsema.window_attention.default, arguments)
    qk = torch.cat([q, k], -1)
    views = (*qk.chunk(2, -1), *arguments[2:])
    torch.library.opcheck(torch.ops.mmsema.window_attention.default, views)
    backward = torch.ops.mmsema.window_attention_backward.default
    torch.library.opcheck(backward, (grad, *views))
    torch.library.opcheck(backward, (grad.sum().expand(grad.shape), *arguments))


@pytest.mark.slow
def test_compiles_without_graph_breaks():
    """Six sizes, forward and backward: at most two graphs."""
    needs_triton()
    from torch._dynamo.testing import CompileCounterWithBackend

    table = rope_table(7, 32, DEVICE)
    run = lambda qk, v: sema_attention_packed(qk, v, 2, rope=table, backend="triton")  # noqa: E731
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend=counter)
    for size in SIZES:
        q, k, v = (t.detach().flatten(-2) for t in random_maps((1, *size, 2, 16), torch.float32))
        inputs = [torch.cat([q, k], -1).requires_grad_(), v.requires_grad_()]
        grad = torch.randn_like(v)
        for a, e in zip(
            output_and_gradients(compiled, inputs, grad), output_and_gradients(run, inputs, grad), strict=True
        ):
            torch.testing.assert_close(a, e, rtol=0, atol=1e-5)
    assert counter.frame_count <= 2


@pytest.mark.parametrize("dtype", [torch.float16, pytest.param(torch.bfloat16, marks=pytest.mark.gpu)])
@pytest.mark.parametrize("compile", [False, True])
def test_autocast_and_checkpointing(compile, dtype):
    needs_triton()
    q, k, v = random_maps((1, 5, 9, 2, 16), torch.float32)

    def run(q, k, v):
        with torch.autocast(DEVICE, dtype):
            return torch.utils.checkpoint.checkpoint(
                lambda *t: sema_attention(*t, backend="triton"), q, k, v, use_reentrant=False
            )

    out = (torch.compile(run, fullgraph=True, backend="aot_eager") if compile else run)(q, k, v)
    assert out.dtype == dtype
    expected = definition(*(t.to(dtype) for t in (q, k, v)), 7)
    grads = torch.autograd.grad(out.float().square().sum(), (q, k, v))
    expected_grads = torch.autograd.grad(expected.square().sum(), (q, k, v))
    tolerance = 1e-2 if dtype == torch.float16 else 8e-2
    for a, e in zip((out, *grads), (expected, *expected_grads), strict=True):
        torch.testing.assert_close(a.double(), e.double(), rtol=tolerance, atol=tolerance)


@pytest.mark.slow
def test_the_folder_is_no_package_of_its_own_name():
    """From a checkout's root ``import kernels``, which transformers tries, finds this folder and leaves ours alone."""
    script = "import kernels, mmsema_kernels; assert not hasattr(kernels, 'sema_attention')"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
