"""Timing against what else computes the same thing: parity first, and no speed without it.

:mod:`mmsema.benchmark_ops` has the operators and blocks, :mod:`mmsema.benchmark_models` the backbones,
:mod:`mmsema.benchmark_checks` what must hold on a GPU before any time counts.
"""

import contextlib
import csv
import os
import statistics
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional, Sequence

import torch
from torch import Tensor

# Relative error in norm against float64. Whoever shares our place in the table may round once more than our kernels do.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
KERNEL_TOLERANCE = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 6e-3}


@dataclass
class Row:
    """One line of the table. Without a time, ``note`` says why."""

    part: str
    op: str
    candidate: str
    shape: str
    dtype: str
    ms: Optional[float] = None  # median
    low_ms: Optional[float] = None  # fastest
    high_ms: Optional[float] = None  # slowest
    gb_per_s: Optional[float] = None  # over the bytes that must move, not those that did
    tflop_per_s: Optional[float] = None
    flop_per_byte: Optional[float] = None
    memory_mb: Optional[float] = None  # peak beyond what was allocated before, CUDA only
    note: str = ""


class Report:
    """Prints rows as they come, keeps them in ``benchmark.csv`` beside the versions, and knows when time is up."""

    def __init__(self, folder: Path, device: str, seconds: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.device, self.end = folder, device, time.monotonic() + seconds
        self.rows: List[Row] = []
        self.environment = environment(device)
        print("  ".join(f"{key}={value}" for key, value in self.environment.items()))
        with open(folder / "benchmark.csv", "w", newline="") as file:
            csv.writer(file).writerow([*(field.name for field in fields(Row)), *self.environment])

    def add(self, row: Row) -> None:
        self.rows.append(row)
        numbers = {key: value for key, value in asdict(row).items() if isinstance(value, float)}
        measured = " ".join(f"{key}={value:.4g}" for key, value in numbers.items() if key != "flop_per_byte")
        print(
            f"{row.part:9} {row.op:28} {row.candidate:26} {row.shape:18} {row.dtype:9} {measured} {row.note}",
            flush=True,
        )
        with open(self.folder / "benchmark.csv", "a", newline="") as file:
            csv.writer(file).writerow([*asdict(row).values(), *self.environment.values()])

    def out_of_time(self) -> bool:
        return time.monotonic() > self.end

    def plot(self, bytes_per_s: float, flop_per_s: float) -> None:
        """The roofline: rate over floating-point operations per byte that must move, under the measured ceilings."""
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot

        rows = [row for row in self.rows if row.ms and row.flop_per_byte]
        figure, axes = pyplot.subplots(figsize=(8, 5), layout="constrained")
        intensity = [0.5 * 2**i for i in range(12)]
        axes.plot(intensity, [min(x * bytes_per_s, flop_per_s) / 1e12 for x in intensity], color="black")
        for name in dict.fromkeys(row.candidate for row in rows):
            points = [(row.flop_per_byte, row.tflop_per_s) for row in rows if row.candidate == name]
            axes.plot(*zip(*points, strict=True), linestyle="", marker="o", label=name)
        axes.set(xscale="log", yscale="log", xlabel="FLOP per byte that must move", ylabel="TFLOP/s")
        axes.set_title(f"{self.environment['device']}: copy {bytes_per_s / 1e9:.0f} GB/s")
        if rows:
            axes.legend(fontsize="small")
        figure.savefig(self.folder / "roofline.png", dpi=150)
        pyplot.close(figure)


def environment(device: str) -> Dict[str, str]:
    """What a time depends on besides the code."""
    try:
        from triton import __version__ as triton
    except ImportError:
        triton = "none"
    if device == "cuda":
        name = torch.cuda.get_device_name()
    else:
        info = Path("/proc/cpuinfo")
        lines = info.read_text().splitlines() if info.exists() else []
        name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "CPU")
    versions = dict(torch=torch.__version__, triton=triton, cuda=str(torch.version.cuda))
    return dict(device=name, **versions, threads=str(torch.get_num_threads()))


@contextlib.contextmanager
def kernel(name: str) -> Iterator[None]:
    """Have MMSEMA_KERNEL name the backend."""
    before = os.environ.get("MMSEMA_KERNEL")
    os.environ["MMSEMA_KERNEL"] = name
    try:
        yield
    finally:
        os.environ.pop("MMSEMA_KERNEL")
        if before is not None:
            os.environ["MMSEMA_KERNEL"] = before


def reason(error: BaseException) -> str:
    """An error in one line of a table."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:160]


def relative_error(actual: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """The largest ||actual - expected|| / ||expected|| of all pairs; infinite where a number is not finite."""
    errors = []
    for a, e in zip(actual, expected, strict=True):
        a = a.to(e)
        errors.append(((a - e).norm() / e.norm().clamp_min(1e-12)).item() if a.isfinite().all() else float("inf"))
    return max(errors)


def peak_memory(call: Callable[[], object]) -> Optional[float]:
    """MB that ``call`` allocates at its peak."""
    if not torch.cuda.is_available():
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def _graph(calls: Sequence[Callable[[], object]]) -> Callable[[], None]:
    """All calls as one CUDA graph, so that the gaps between launches stay out of the time."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in (*calls, *calls):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return graph.replay


def times(
    candidates: Dict[str, Sequence[Callable[[], object]]], device: str, rounds: int, graph: bool = False
) -> Dict[str, List[float]]:
    """Milliseconds per call, ``rounds`` of them for each candidate, one candidate after the other in every round.

    A candidate is the same call on several sets of inputs: together they should not fit in a cache.
    """
    runs = {}
    for name, calls in candidates.items():
        if device == "cuda" and graph:
            runs[name] = _graph(calls)
        else:
            runs[name] = lambda calls=calls: [call() for call in calls]
            runs[name]()
    result: Dict[str, List[float]] = {name: [] for name in candidates}
    for _ in range(rounds):
        for name, run in runs.items():
            if device == "cuda":
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
                start.record()
                run()
                end.record()
                end.synchronize()
                elapsed = start.elapsed_time(end)
            else:
                began = time.perf_counter()
                run()
                elapsed = (time.perf_counter() - began) * 1e3
            result[name].append(elapsed / len(candidates[name]))
    return result


def measured(row: Row, milliseconds: Sequence[float], bytes_moved: float = 0, flops: float = 0) -> Row:
    """Fill in the times and what follows from them."""
    row.ms, row.low_ms, row.high_ms = statistics.median(milliseconds), min(milliseconds), max(milliseconds)
    if bytes_moved:
        row.gb_per_s = bytes_moved / row.ms / 1e6
        row.tflop_per_s = flops / row.ms / 1e9
        row.flop_per_byte = flops / bytes_moved
    return row


def input_sets(size: int, device: str) -> int:
    """How many sets of inputs of ``size`` bytes a run goes through: four times the cache, at most 8."""
    if device != "cuda":
        return 1
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    return max(1, min(8, -(-4 * cache // size)))


def ceilings(report: Report) -> None:
    """Measure what the machine gives at best, a copy and a matrix product, and draw the roofline under them."""
    n, dtype = (8192, torch.bfloat16) if report.device == "cuda" else (1024, torch.float32)
    a, b = (torch.randn(n, n, dtype=dtype, device=report.device) for _ in range(2))
    source = torch.randn(2**30 if report.device == "cuda" else 2**25, device=report.device)
    target = torch.empty_like(source)
    taken = times({"copy": [lambda: target.copy_(source)], "matmul": [lambda: a @ b]}, report.device, 10)
    copied = measured(Row("ceilings", "copy", "torch", "", "float32"), taken["copy"], 2 * source.nbytes)
    product = measured(Row("ceilings", "matmul", "torch", f"{n}x{n}", str(dtype)[6:]), taken["matmul"])
    product.tflop_per_s = 2 * n**3 / product.ms / 1e9
    for row in (copied, product):
        report.add(row)
    report.plot(copied.gb_per_s * 1e9, product.tflop_per_s * 1e12)


def run(preset: str, parts: Sequence[str], folder: Path, minutes: float) -> List[Row]:
    """Run the parts one after the other; a part that fails is reported, the others go on."""
    from . import benchmark_checks, benchmark_models, benchmark_ops

    report = Report(folder, "cuda" if preset == "gpu" else "cpu", minutes * 60)
    functions = dict(
        checks=benchmark_checks.checks,
        kernels=benchmark_ops.kernels,
        block=benchmark_ops.blocks,
        backbone=benchmark_models.backbones,
        scaling=benchmark_models.scaling,
        ceilings=ceilings,
    )
    for part in parts:
        if report.out_of_time():
            report.add(Row(part, "", "", "", "", note="not run: out of time"))
            continue
        try:
            functions[part](report)
        except Exception as error:
            report.add(Row(part, "", "", "", "", note=f"FAILED: {reason(error)}"))
    return report.rows
