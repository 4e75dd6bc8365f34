"""The table that a benchmark fills: rows as they are measured, a CSV file, and a roofline plot."""

import csv
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Dict, List, Optional

import torch


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


def reason(error: BaseException) -> str:
    """An error in one line of a table."""
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:160]
