"""What must hold on a CUDA device before a time counts. Each check raises, or says in a few words what it saw."""

import subprocess
import sys
import time
from typing import Callable, List, Sequence, Tuple
from unittest import mock

import torch
from mmsema_kernels import (
    depthwise_residual,
    depthwise_silu,
    layer_norm,
    lepe_gate,
    rope_table,
    sema_attention,
    use_backend,
)
from torch import Tensor

from ..models.block import MambaLikeBlock
from ..models.mixers import SEMAMixer
from .report import Report, Row, reason
from .timing import KERNEL_TOLERANCE, relative_error

DEVICE = "cuda"
REPEATS = 250
SIZES = [(7, 7), (56, 56), (10, 16), (5, 23), (1, 1), (1, 9), (9, 1), (3, 20), (8, 8), (50, 84)]


def _maps(shape: Tuple[int, ...], dtype: torch.dtype, count: int) -> List[Tensor]:
    return [torch.randn(shape, device=DEVICE, dtype=dtype).requires_grad_() for _ in range(count)]


def _all(run: Callable[..., Tensor], inputs: List[Tensor], grad: Tensor) -> List[Tensor]:
    out = run(*inputs)
    return [out.detach(), *torch.autograd.grad(out, inputs, grad.to(out.dtype))]


def _attention_error(shape: Tuple[int, ...], dtype: torch.dtype, window: int = 7) -> float:
    *inputs, grad = _maps(shape, dtype, 4)
    rope = rope_table(window, shape[-1] * shape[-2], DEVICE)
    wide = [t.detach().double().requires_grad_() for t in inputs]
    expected = _all(lambda *t: sema_attention(*t, window, rope=rope, backend="reference"), wide, grad)
    actual = _all(lambda *t: sema_attention(*t, window, rope=rope, backend="triton"), inputs, grad)
    floor = 0.1 * actual[0].numel() ** 0.5  # one token in a window has gradients of 0
    return max(((a - e).norm() / e.norm().clamp_min(floor)).item() for a, e in zip(actual, expected, strict=True))


def parity() -> str:
    """Attention against the definition in float64: every size, window and head dim, all dtypes, bfloat16 included."""
    worst = {}
    for dtype, limit in KERNEL_TOLERANCE.items():
        cases = [((2, *size, 2, 32), 7) for size in SIZES]
        cases += [((1, 9, 10, 2, 32), window) for window in (2, 4, 5, 8)]
        cases += [((1, 16, 10, 3, d), 7) for d in (16, 64) if (d, dtype) != (64, torch.float32)]
        errors = {case: _attention_error(case[0], dtype, case[1]) for case in cases}
        bad = {case: f"{error:.1e}" for case, error in errors.items() if not error <= limit}
        assert not bad, f"{dtype}: {bad}"
        worst[str(dtype)[6:]] = f"{max(errors.values()):.1e}"
    return f"worst relative errors {worst}"


def depthwise_parity() -> str:
    worst = 0.0
    for dtype, limit in KERNEL_TOLERANCE.items():
        for H, W in SIZES:
            x, attention, gate, grad = _maps((2, H, W, 96), dtype, 4)
            weight, bias = _maps((96, 1, 3, 3), dtype, 1)[0], _maps((96,), dtype, 1)[0]
            for op, inputs in (
                (depthwise_residual, [x, weight, bias]),
                (depthwise_silu, [x, weight, bias]),
                (lepe_gate, [attention, x, weight, bias, gate]),
            ):
                wide = [t.detach().double().requires_grad_() for t in inputs]
                expected = _all(lambda *t, op=op: op(*t, backend="torch"), wide, grad)
                actual = _all(lambda *t, op=op: op(*t, backend="triton"), inputs, grad)
                error = relative_error(actual, expected)
                assert error <= limit, f"{op.__name__} {dtype} {H}x{W}: {error:.1e}"
                worst = max(worst, error / limit)
    return f"worst error {worst:.2f} of what is allowed"


def layer_norm_parity() -> str:
    worst = 0.0
    for dtype, limit in KERNEL_TOLERANCE.items():
        for tokens, C in [(1, 64), (4097, 64), (1000, 96), (300, 512), (50_000, 768)]:
            x, grad = _maps((tokens, C), dtype, 2)
            inputs = [x, *_maps((C,), torch.float32, 2)]
            wide = [t.detach().double().requires_grad_() for t in inputs]
            expected = _all(lambda *t: layer_norm(*t, backend="torch"), wide, grad)
            error = relative_error(_all(lambda *t: layer_norm(*t, backend="triton"), inputs, grad), expected)
            assert error <= limit, f"{dtype} {tokens}x{C}: {error:.1e}"
            worst = max(worst, error / limit)
    return f"worst error {worst:.2f} of what is allowed"


def four_warps() -> str:
    """What the guard on compute capability 9.0 is for: the error with four warps, in a process of its own."""
    if torch.cuda.get_device_capability() != (9, 0):
        return "does not apply to this device"
    command = [sys.executable, "-c", "from mmsema.benchmark.gpu_checks import _four_warps; _four_warps()"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    return done.stdout.strip() if done.returncode == 0 else f"crashed: {done.stderr.strip()[-120:]}"


def _four_warps() -> None:
    from mmsema_kernels import window_attention

    shape = (2, 56, 56, 2, 32)
    two = _attention_error(shape, torch.bfloat16)
    with (
        mock.patch.object(window_attention, "NUM_WARPS", 4),
        mock.patch.object(window_attention, "check_num_warps", lambda num_warps, capability: num_warps),
    ):
        four = _attention_error(shape, torch.bfloat16)
    print(f"error {two:.1e} with two warps, {four:.1e} with four")


def same_bits() -> str:
    """Many runs of every operator give the same bits."""
    x, attention, gate, grad = _maps((2, 200, 334, 64), torch.bfloat16, 4)
    weight, bias = _maps((64, 1, 3, 3), torch.bfloat16, 1)[0], _maps((64,), torch.bfloat16, 1)[0]
    q, k, v, grad_v = _maps((2, 200, 334, 2, 32), torch.bfloat16, 4)
    rope = rope_table(7, 64, DEVICE)
    for run, inputs, g in (
        (lambda *t: sema_attention(*t, rope=rope, backend="triton"), [q, k, v], grad_v),
        (lambda *t: depthwise_residual(*t, backend="triton"), [x, weight, bias], grad),
        (lambda *t: depthwise_silu(*t, backend="triton"), [x, weight, bias], grad),
        (lambda *t: lepe_gate(*t, backend="triton"), [attention, x, weight, bias, gate], grad),
        (lambda x, w, b: layer_norm(x, w[:, 0, 0, 0], b, backend="triton"), [x, weight, bias], grad),
    ):
        first = _all(run, inputs, g)
        different = torch.zeros((), dtype=torch.int64, device=DEVICE)
        for _ in range(REPEATS):
            for a, b in zip(_all(run, inputs, g), first, strict=True):
                different += (a != b).sum()
        assert not different.item(), f"{different.item()} numbers changed"
    return f"{REPEATS} runs"


def past_int32() -> str:
    """Maps of 2^31 + 64 numbers or more: the last image comes out as it does alone, forward and backward."""
    if torch.cuda.mem_get_info()[0] < 80e9:
        return "not run: needs 80 GB of free memory"
    batch = 2**31 // (56 * 56 * 1024) + 1
    assert batch * 56 * 56 * 1024 >= 2**31 + 64
    return _last_image(batch, 56, 56, 1024)


def _last_image(batch: int, H: int, W: int, C: int) -> str:
    shape = (batch, H, W, C // 32, 32)
    q, k, v, grad = (torch.empty(shape, device=DEVICE, dtype=torch.float16).normal_() for _ in range(4))

    def compare(name: str, run: Callable[..., Tensor], maps: Sequence[Tensor], grad: Tensor) -> None:
        together, alone = (
            _all(run, [t.detach().requires_grad_() for t in inputs], g)
            for inputs, g in ((maps, grad), ([t[-1:].clone() for t in maps], grad[-1:].clone()))
        )
        assert all(torch.equal(a[-1:], b) for a, b in zip(together, alone, strict=True)), name

    compare("attention", lambda *t: sema_attention(*t, backend="triton"), (q, k, v), grad)
    attention, x, gate, grad = (t.flatten(-2) for t in (q, k, v, grad))
    weight, bias = _maps((C, 1, 3, 3), torch.float16, 1)[0], _maps((C,), torch.float16, 1)[0]
    compare("residual", lambda t: depthwise_residual(t, weight, bias, backend="triton"), (x,), grad)
    compare("silu", lambda t: depthwise_silu(t, weight, bias, backend="triton"), (x,), grad)
    compare("gate", lambda a, t, g: lepe_gate(a, t, weight, bias, g, backend="triton"), (attention, x, gate), grad)
    return f"{batch}x{H}x{W}x{C}"


def _block() -> MambaLikeBlock:
    torch.manual_seed(0)
    return MambaLikeBlock(64, 2, 7, 0.0, SEMAMixer).to(DEVICE)


def cuda_graph() -> str:
    """A block captured once, forward and backward, gives what it gives eagerly, on other numbers too."""
    with use_backend("triton"):
        block, x = _block(), torch.randn(2, 50, 84, 64, device=DEVICE)
        inputs = [x.requires_grad_(), *block.parameters()]
        grad = torch.randn_like(x)
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                _all(lambda x, *_: block(x), inputs, grad)
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = _all(lambda x, *_: block(x), inputs, grad)
        with torch.no_grad():
            x.normal_()
        graph.replay()
        error = relative_error(captured, _all(lambda x, *_: block(x), inputs, grad))
    assert error < 1e-5, f"{error:.1e}"
    return f"relative error {error:.1e}"


def compiled() -> str:
    """torch.compile(fullgraph=True) with Inductor, in bfloat16 autocast, over three sizes."""
    torch._dynamo.reset()
    worst = 0.0
    with use_backend("triton"):
        block = _block()
        compiled_block = torch.compile(block, fullgraph=True, dynamic=True)
        for H, W in [(56, 56), (50, 84), (25, 42)]:
            x = torch.randn(2, H, W, 64, device=DEVICE)
            inputs, grad = [x.requires_grad_(), *block.parameters()], torch.randn_like(x)
            expected = _all(lambda x, *_: block(x), inputs, grad)
            with torch.autocast(DEVICE, torch.bfloat16):
                actual = _all(lambda x, *_: compiled_block(x), inputs, grad)
            worst = max(worst, relative_error(actual, expected))
    assert worst < 5e-2, f"{worst:.1e}"
    return f"relative error {worst:.1e} against eager float32"


CHECKS = (
    parity,
    depthwise_parity,
    layer_norm_parity,
    four_warps,
    same_bits,
    past_int32,
    cuda_graph,
    compiled,
)


def checks(report: Report) -> None:
    """Run all checks; one that fails is reported, the others go on."""
    for check in CHECKS:
        if report.out_of_time():
            report.add(Row("checks", check.__name__, "", "", "", note="not run: out of time"))
            continue
        began = time.monotonic()
        try:
            note = f"passed: {check()}"
        except Exception as error:
            note = f"FAILED: {reason(error)}"
        seconds = time.monotonic() - began
        report.add(Row("checks", check.__name__, "", "", "", note=f"{note} ({seconds:.0f} s)"))
        torch.cuda.empty_cache()
