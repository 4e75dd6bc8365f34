"""Operators and blocks to time: SEMA's, and other ways to compute the same."""

import copy
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Callable, Dict, List, Sequence, Tuple

import torch
import torch.nn.functional as F
from mmsema_kernels import (
    depthwise_residual,
    depthwise_silu,
    layer_norm,
    lepe_gate,
    rope_table,
    sema_attention,
    use_backend,
)
from mmsema_kernels.windows import window_merge, window_partition
from torch import Tensor
from torch.func import functional_call

from ..models.block import MambaLikeBlock
from ..models.mixers import SEMAMixer
from .report import Report, Row, reason
from .timing import KERNEL_TOLERANCE, TOLERANCE, input_sets, measured, peak_memory, relative_error, times

WINDOW = 7
# (batch, H, W) of the first stage, a quarter of the image: 224 x 224, 800 x 1333, 2048 x 2048
FIRST_STAGES = [(128, 56, 56), (2, 200, 334), (16, 200, 334), (1, 512, 512)]


@dataclass
class Case:
    """One operator at one shape. ``truth`` and the candidates take the same inputs; ``candidates`` are named."""

    part: str
    op: str
    shape: str
    inputs: Callable[[], List[Tensor]]
    truth: Callable[..., Tensor]
    candidates: Dict[str, Callable[..., Tensor]]
    bytes_moved: Tuple[float, float] = (0, 0)  # forward; forward and backward: inputs read once, outputs written once
    flops: Tuple[float, float] = (0, 0)


def run_case(case: Case, report: Report, rounds: int) -> None:
    """Check every candidate against float64, then time those that passed: forward, and forward with backward."""
    sample = case.inputs()
    size = sum(t.nbytes for t in sample)
    dtype = sample[0].dtype
    wide = [t.detach().double().requires_grad_() for t in sample]
    expected = case.truth(*wide)
    grad = torch.randn_like(sample[0])
    expected_all = [expected, *torch.autograd.grad(expected, wide, grad.double())]
    expected_all = [t.detach().to(torch.promote_types(dtype, torch.float32)) for t in expected_all]
    del wide, expected
    passed, rows = {}, {}
    for name, run in case.candidates.items():
        row = Row(case.part, case.op, name, case.shape, str(dtype)[6:])
        try:
            out = run(*sample)
            error = relative_error([out, *torch.autograd.grad(out, sample, grad)], expected_all)
            limit = (KERNEL_TOLERANCE if name == "triton" and case.part == "kernels" else TOLERANCE)[dtype]
            if case.part == "block":
                limit *= 4  # a block rounds some ten times one after the other
            row.note = f"error={error:.1e}"
            if error <= limit:
                passed[name], rows[name] = run, row
                continue
            row.note += f" above {limit:.0e}: not timed"
        except Exception as error:
            row.note = f"FAILED: {reason(error)}"
        report.add(row)
    del expected_all
    sets = [sample, *(case.inputs() for _ in range(input_sets(size, report.device) - 1))]

    def forward(run: Callable, inputs: Sequence[Tensor]) -> Tensor:
        with torch.no_grad():
            return run(*inputs)

    def both(run: Callable, inputs: Sequence[Tensor]) -> object:
        return torch.autograd.grad(run(*inputs), inputs, grad)

    for index, (mode, call) in enumerate([("forward", forward), ("forward+backward", both)]):
        calls = {name: [partial(call, run, inputs) for inputs in sets] for name, run in passed.items()}
        taken = {}
        try:
            taken = times(calls, report.device, rounds, graph=True)
        except Exception as error:  # somebody in this round cannot be captured
            torch.cuda.synchronize()
            report.add(Row(case.part, case.op, "", case.shape, "", note=f"no CUDA graph: {reason(error)}"))
            taken = times(calls, report.device, rounds)
        for name, milliseconds in taken.items():
            row = copy.copy(rows[name])
            row.op = f"{case.op} {mode}"
            row.memory_mb = peak_memory(calls[name][0])
            report.add(measured(row, milliseconds, case.bytes_moved[index], case.flops[index]))


def normal(shape: Sequence[int], count: int, dtype: torch.dtype, device: str) -> List[Tensor]:
    return [torch.randn(shape, dtype=dtype, device=device).requires_grad_() for _ in range(count)]


def _add_mean(local: Tensor, v: Tensor) -> Tensor:
    mean = v.mean((1, 2), keepdim=True, dtype=torch.promote_types(v.dtype, torch.float32))
    return (local + mean).to(v.dtype)


def padded_sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """What Swin does: pad, copy into windows, attend under a mask where needed, copy back, crop."""
    B, H, W, heads, d = v.shape
    bottom, right = -H % WINDOW, -W % WINDOW
    windows = []
    for t in (q, k, v):
        t = window_partition(F.pad(t.flatten(-2), (0, 0, 0, right, 0, bottom)), WINDOW, WINDOW)
        windows.append(t.unflatten(-1, (heads, d)).transpose(1, 2))  # (B * windows, heads, 49, d)
    mask = None
    if bottom or right:
        real = F.pad(torch.ones(1, H, W, 1, dtype=torch.bool, device=v.device), (0, 0, 0, right, 0, bottom))
        mask = window_partition(real, WINDOW, WINDOW).view(-1, 1, 1, WINDOW**2).repeat(B, 1, 1, 1)
    out = F.scaled_dot_product_attention(*windows, attn_mask=mask).transpose(1, 2).flatten(-2)
    out = window_merge(out, WINDOW, WINDOW, H + bottom, W + right)[:, :H, :W].unflatten(-1, (heads, d))
    return _add_mean(out, v)


def sdpa_backend(shape: Sequence[int], dtype: torch.dtype, device: str) -> str:
    """The name of the implementation that PyTorch chooses for the windows of :func:`padded_sdpa`."""
    from torch.nn.attention import SDPBackend

    B, H, W, heads, d = shape
    q = torch.empty(B * -(-H // WINDOW) * -(-W // WINDOW), WINDOW**2, heads, d, dtype=dtype, device=device)
    q = q.transpose(1, 2).requires_grad_()
    mask = None
    if H % WINDOW or W % WINDOW:
        mask = torch.ones(len(q), 1, 1, WINDOW**2, dtype=torch.bool, device=device)
    return SDPBackend(torch._fused_sdp_choice(q, q, q, mask)).name.lower()


@lru_cache
def _flex(H: int, W: int, device: str) -> Callable:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    def same_window(batch, head, i, j):
        return (i // W // WINDOW == j // W // WINDOW) & (i % W // WINDOW == j % W // WINDOW)

    compiled = device == "cuda"
    mask = create_block_mask(same_window, None, None, H * W, H * W, device=device, _compile=compiled)
    return partial(torch.compile(flex_attention, dynamic=False) if compiled else flex_attention, block_mask=mask)


def flex(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """FlexAttention over all tokens, row after row, under a mask of equal windows. Nothing is copied."""
    heads, H, W = v.shape[3], v.shape[1], v.shape[2]
    tokens = (t.flatten(1, 2).transpose(1, 2) for t in (q, k, v))  # (B, heads, n, d)
    out = _flex(H, W, v.device.type)(*tokens).transpose(1, 2)
    return _add_mean(out.reshape(len(v), H, W, heads, -1), v)


def natten(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """NATTEN's neighbourhood attention with a stride of the window: the same windows, on maps that they divide."""
    from natten import na2d

    return _add_mean(na2d(q, k, v, kernel_size=WINDOW, stride=WINDOW), v)


def attention_case(batch: int, H: int, W: int, C: int, dtype: torch.dtype, device: str, compiled: bool) -> Case:
    """With ``compiled`` also against FlexAttention and PyTorch's path compiled, which are compiled for minutes."""
    heads = C // 32
    shape = (batch, H, W, heads, 32)
    candidates = {"torch": partial(sema_attention, backend="torch")}
    if device == "cuda":
        candidates = {"triton": partial(sema_attention, backend="triton"), **candidates}
    candidates[f"padded SDPA ({sdpa_backend(shape, dtype, device)})"] = padded_sdpa
    if H % WINDOW == 0 and W % WINDOW == 0:
        candidates["NATTEN"] = natten
    if compiled:
        candidates["FlexAttention"] = flex
        candidates["torch, compiled"] = torch.compile(partial(sema_attention, backend="torch"), dynamic=False)
    n, U = batch * H * W, batch * H * W * C * dtype.itemsize
    return Case(
        "kernels", "attention", f"{batch}x{H}x{W}x{C}",
        inputs=partial(normal, shape, 3, dtype, device),
        truth=partial(sema_attention, backend="torch"),
        candidates=candidates,
        bytes_moved=(4 * U, 11 * U),
        flops=(4 * WINDOW**2 * C * n, 14 * WINDOW**2 * C * n),
    )  # fmt: skip


def rope_case(batch: int, H: int, W: int, C: int, dtype: torch.dtype, device: str) -> Case:
    """Attention as the block runs it. Peers have no RoPE of this kind."""
    case = attention_case(batch, H, W, C, dtype, device, compiled=False)
    rope = rope_table(WINDOW, C, device)
    case.op = "attention with RoPE"
    case.truth = partial(sema_attention, rope=rope, backend="torch")
    names = ("triton", "torch") if device == "cuda" else ("torch",)
    case.candidates = {name: partial(sema_attention, rope=rope, backend=name) for name in names}
    return case


def windows_case(batch: int, H: int, W: int, C: int, dtype: torch.dtype, device: str) -> Case:
    """Attention without the mean: what it takes to read v once more is the difference."""
    case = attention_case(batch, H, W, C, dtype, device, compiled=False)
    case.op = "window attention"
    case.truth = partial(sema_attention, mean=False, backend="torch")
    names = ("triton", "torch") if device == "cuda" else ("torch",)
    case.candidates = {name: partial(sema_attention, mean=False, backend=name) for name in names}
    return case


def layer_norm_case(batch: int, H: int, W: int, C: int, dtype: torch.dtype, device: str) -> Case:
    def inputs() -> List[Tensor]:
        return [*normal((batch, H, W, C), 1, dtype, device), *normal((C,), 2, dtype, device)]

    names = ("triton", "torch") if device == "cuda" else ("torch",)
    n, U = batch * H * W, batch * H * W * C * dtype.itemsize
    return Case(
        "kernels", "layer_norm", f"{batch}x{H}x{W}x{C}", inputs, partial(layer_norm, backend="torch"),
        {name: partial(layer_norm, backend=name) for name in names},
        bytes_moved=(2 * U, 5 * U),
        flops=(8 * C * n, 24 * C * n),
    )  # fmt: skip


def depthwise_case(op: Callable, batch: int, H: int, W: int, C: int, dtype: torch.dtype, device: str) -> Case:
    maps, forward, backward = (3, 4, 7) if op is lepe_gate else (1, 2, 3)

    def inputs() -> List[Tensor]:
        x, *others = normal((batch, H, W, C), maps, dtype, device)
        return [x, *normal((C, 1, 3, 3), 1, dtype, device), *normal((C,), 1, dtype, device), *others]

    def call(backend: str, x: Tensor, weight: Tensor, bias: Tensor, *others: Tensor) -> Tensor:
        if op is lepe_gate:
            attention, gate = others
            return lepe_gate(attention, x, weight, bias, gate, backend=backend)
        return op(x, weight, bias, backend=backend)

    names = ("triton", "torch") if device == "cuda" else ("torch",)
    n, U = batch * H * W, batch * H * W * C * dtype.itemsize
    return Case(
        "kernels", op.__name__, f"{batch}x{H}x{W}x{C}", inputs, partial(call, "torch"),
        {name: partial(call, name) for name in names},
        bytes_moved=(forward * U, (forward + backward) * U),
        flops=(18 * C * n, 54 * C * n),
    )  # fmt: skip


def block_case(batch: int, H: int, W: int, C: int, dtype: torch.dtype, device: str, compiled: bool) -> Case:
    """A whole block; the parameters are inputs, so their gradients are checked and timed too."""
    torch.manual_seed(0)
    block = MambaLikeBlock(C, C // 32, WINDOW, 0.0, SEMAMixer).to(device)
    names = [name for name, _ in block.named_parameters()]

    def inputs() -> List[Tensor]:
        parameters = (p.detach().to(dtype, copy=True).requires_grad_() for p in block.parameters())
        return [*normal((batch, H, W, C), 1, dtype, device), *parameters]

    def call(backend: str, run: Callable, x: Tensor, *parameters: Tensor) -> Tensor:
        with use_backend(backend):
            return run(x, *parameters)

    def run(x: Tensor, *parameters: Tensor) -> Tensor:
        return functional_call(block, dict(zip(names, parameters, strict=True)), x)

    candidates = {name: partial(call, name, run) for name in (("triton", "torch") if device == "cuda" else ("torch",))}
    if compiled:
        for name in list(candidates):
            candidates[f"{name}, compiled"] = partial(call, name, torch.compile(run, dynamic=False))
    return Case("block", "block", f"{batch}x{H}x{W}x{C}", inputs, partial(call, "torch", run), candidates)


def _run(cases: Sequence[Callable[[], Case]], report: Report, rounds: int) -> None:
    """A case that fails, by running out of memory for instance, is reported; the others go on."""
    for make in cases:
        if report.out_of_time():
            report.add(Row("", "", "", "", "", note="the rest of this part was not run: out of time"))
            return
        torch._dynamo.reset()
        try:
            run_case(make(), report, rounds)
        except Exception as error:
            report.add(Row("", "", "", "", "", note=f"FAILED: {reason(error)}"))
        if report.device == "cuda":
            torch.cuda.empty_cache()


def kernels(report: Report) -> None:
    """The operators alone, at every stage of every setting: the first stages first, other dtypes than bfloat16 last."""
    if report.device == "cpu":
        shapes, dtypes, rounds = [(1, 21, 28, 64), (1, 25, 42, 64)], [torch.float32], 5
    else:
        shapes = [(b, -(-H >> i), -(-W >> i), 64 << i) for i in range(4) for b, H, W in FIRST_STAGES]
        dtypes, rounds = [torch.bfloat16, torch.float16, torch.float32], 30
    cases: List[Callable[[], Case]] = []
    for dtype in dtypes:
        for shape in shapes if dtype == dtypes[0] else shapes[:2]:
            at = (*shape, dtype, report.device)
            compiled = report.device == "cuda" and (shape, dtype) == (shapes[0], dtypes[0])
            cases += [partial(attention_case, *at, compiled), partial(windows_case, *at), partial(rope_case, *at)]
            cases += [partial(depthwise_case, op, *at) for op in (depthwise_residual, depthwise_silu, lepe_gate)]
            cases += [partial(layer_norm_case, *at)]
    _run(cases, report, rounds)


def blocks(report: Report) -> None:
    """A block of every stage."""
    if report.device == "cpu":
        _run([partial(block_case, 1, 25, 42, 64, torch.float32, "cpu", False)], report, 5)
        return
    shapes = [(b, -(-H >> i), -(-W >> i), 64 << i) for b, H, W in FIRST_STAGES for i in range(4)]
    _run([partial(block_case, *s, torch.bfloat16, "cuda", s[3] == 64) for s in shapes], report, 20)
