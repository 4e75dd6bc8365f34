"""Run the parts of a benchmark: what must hold first, then operators, blocks, backbones, detectors, constants."""

from pathlib import Path
from typing import List, Sequence

import torch

from . import backbones, detector, gpu_checks, operators, sweep
from .report import Report, Row, reason
from .timing import measured, times

ON_CUDA_ONLY = ("checks", "compiled", "detector", "sweep")


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
    report = Report(folder, "cuda" if preset == "gpu" else "cpu", minutes * 60)
    functions = dict(
        checks=gpu_checks.checks,
        kernels=operators.kernels,
        block=operators.blocks,
        backbone=backbones.backbones,
        scaling=backbones.scaling,
        ceilings=ceilings,
        compiled=backbones.compiled,
        detector=detector.detector,
        sweep=sweep.sweep,
    )
    for part in parts:
        if report.device == "cpu" and part in ON_CUDA_ONLY:
            report.add(Row(part, "", "", "", "", note="not run: needs a CUDA device"))
            continue
        if report.out_of_time():
            report.add(Row(part, "", "", "", "", note="not run: out of time"))
            continue
        try:
            functions[part](report)
        except Exception as error:
            report.add(Row(part, "", "", "", "", note=f"FAILED: {reason(error)}"))
    return report.rows
