"""Times and errors: parity first, and no speed without it."""

import statistics
import time
from typing import Callable, Dict, List, Optional, Sequence

import torch
from torch import Tensor

from .report import Row

# Relative error in norm against float64. Whoever shares our place in the table may round once more than our kernels do.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}
KERNEL_TOLERANCE = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 6e-3}


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


def captured(calls: Sequence[Callable[[], object]]) -> Callable[[], None]:
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
            runs[name] = captured(calls)
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
