"""Time and peak memory of every mixer over the number of tokens, and the power of n with which they grow.

On the CPU each measurement has a forked process of its own. Time is the process's own CPU time on one thread, which
other work on the machine disturbs less than the clock. Memory is how far the resident set rises above what it was with
the module and its input made: Linux's high-water mark, set back before the first run. On CUDA: time by events, memory
as the allocator counts it.
"""

import csv
import ctypes
import gc
import multiprocessing
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np
import torch
from rich.progress import track

from ..models import SEMA
from ..models.mixers import MIXERS
from .timing import peak_memory, times

PIXELS = (224, 448, 896, 1344, 2048)  # side of the picture; the first stage has (pixels / 4) ** 2 tokens
QUICK_PIXELS = (224, 320, 448)
LEVELS = ("mixer", "backbone")
MODES = ("forward", "training")
CHANNELS, HEADS = 64, 2  # of the mixer on its own: the tiny model's first stage
ROUNDS = 3


@dataclass
class Row:
    """One mixer at one size. Without a time, ``note`` says why."""

    level: str  # "mixer", at the first stage's size, or "backbone", SEMA-pico with it
    mode: str
    mixer: str
    pixels: int
    tokens: int  # of the first stage
    seconds: Optional[float] = None  # fastest
    memory_mb: Optional[float] = None
    note: str = ""


def _make_step(row: Row, device: str) -> Callable[[], None]:
    """A module on random input, forward or with backward."""
    torch.manual_seed(0)
    side, training = row.pixels // 4, row.mode == "training"
    if row.level == "mixer":
        module = MIXERS[row.mixer](CHANNELS, HEADS, 7).to(device)
        inputs = [torch.randn(1, side, side, CHANNELS, device=device, requires_grad=training) for _ in range(2)]
    else:
        module = SEMA("pico", mixer=row.mixer).to(device)
        inputs = [torch.randn(1, 3, row.pixels, row.pixels, device=device)]
    module.train(training)

    def step() -> None:
        with torch.set_grad_enabled(training):
            out = module(*inputs)
            if training:
                total = out.sum() if row.level == "mixer" else sum(map_.sum() for map_ in out)
                total.backward()
                module.zero_grad()

    return step


def _status(field: str) -> float:
    """A line of /proc/self/status, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def _measure_cpu(row: Row, sender: multiprocessing.connection.Connection) -> None:
    torch.set_num_threads(1)
    _make_step(replace(row, pixels=min(64, row.pixels)), "cpu")()  # libraries load at their first use
    step = _make_step(row, "cpu")
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free already may not count as room
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    before = _status("VmRSS")
    began = time.process_time()
    step()
    seconds = [time.process_time() - began]
    memory = _status("VmHWM") - before
    while len(seconds) <= ROUNDS and sum(seconds) < 20:
        began = time.process_time()
        step()
        seconds.append(time.process_time() - began)
    sender.send((min(seconds), memory))


def measure(row: Row, device: str) -> Row:
    """Fill in time and memory; what fails says so in the note."""
    if device == "cuda":
        try:
            step = _make_step(row, device)
            row.memory_mb = peak_memory(step)
            row.seconds = min(times({"": [step]}, device, ROUNDS)[""]) / 1e3
        except torch.OutOfMemoryError:
            row.note = "out of memory"
        return row
    context = multiprocessing.get_context("fork")  # fresh memory, and no import of torch again
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_measure_cpu, args=(row, sender))
    process.start()
    sender.close()
    try:
        row.seconds, row.memory_mb = receiver.recv()
    except EOFError:
        process.join()
        row.note = f"the process ended with {process.exitcode} (-9: killed, often for want of memory)"
    process.join()
    return row


def power(rows: Sequence[Row], column: str) -> Optional[float]:
    """p of column ~ tokens ** p, by least squares on the logarithms; None below two measured rows."""
    points = [(row.tokens, getattr(row, column)) for row in rows if row.seconds and getattr(row, column) > 0]
    if len(points) < 2:
        return None
    return float(np.polyfit(*np.log(points).T, 1)[0])


def _expected(rows: Sequence[Row], tokens: int) -> float:
    """Seconds at ``tokens``, from the two largest sizes measured."""
    done = [row for row in rows if row.seconds]
    if len(done) < 2:
        return 0.0
    p = max(power(done[-2:], "seconds") or 1.0, 1.0)
    return done[-1].seconds * (tokens / done[-1].tokens) ** p


def groups(rows: Sequence[Row]) -> Dict[Tuple[str, str, str], List[Row]]:
    """The rows of every level, mode and mixer."""
    found: Dict[Tuple[str, str, str], List[Row]] = {}
    for row in rows:
        found.setdefault((row.level, row.mode, row.mixer), []).append(row)
    return found


def mixer_cost(
    mixers: Sequence[str],
    levels: Sequence[str] = LEVELS,
    modes: Sequence[str] = MODES,
    pixels: Sequence[int] = PIXELS,
    limit: float = 60,
    device: str = "cpu",
) -> Iterator[Row]:
    """Measure all combinations, from small to large pictures, and yield each row when it is done.

    Args:
        mixers: names of ``MIXERS``.
        levels: "mixer" on its own, "backbone" SEMA-pico with it.
        modes: "forward", "training" (with backward).
        pixels: sides of the picture, multiples of 4.
        limit: seconds; a run that is expected to take longer, by the growth seen so far, becomes a row that says so.
        device: "cpu" or "cuda".
    """
    plan = [
        Row(level, mode, mixer, side, (side // 4) ** 2)
        for side in pixels
        for level in levels
        for mode in modes
        for mixer in mixers
    ]
    found: Dict[Tuple[str, str, str], List[Row]] = {}
    for row in track(plan, "measuring"):
        before = found.setdefault((row.level, row.mode, row.mixer), [])
        expected = _expected(before, row.tokens)
        if expected > limit:
            row.note = f"not run: {expected:.0f} s expected, the limit is {limit:g} s"
        else:
            measure(row, device)
        before.append(row)
        yield row


def write_csv(rows: Sequence[Row], path: Path, **remarks: object) -> None:
    """One line a row; ``remarks``, the same on every line, say where the numbers come from."""
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(field.name for field in fields(Row)), *remarks])
        for row in rows:
            values = [f"{value:.5g}" if isinstance(value, float) else value for value in asdict(row).values()]
            writer.writerow([*values, *remarks.values()])


def plot(rows: Sequence[Row], path: Path) -> None:
    """Time and memory over tokens, one panel for each level and mode; shapes and dashes, no colours."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    styles = [(marker, line) for line in ("-", "--") for marker in "o^sDvx*P"]
    panels = list(dict.fromkeys((row.level, row.mode) for row in rows))
    names = list(dict.fromkeys(row.mixer for row in rows))
    figure, grid = pyplot.subplots(
        2, len(panels), figsize=(3.6 * len(panels) + 1.4, 6.4), dpi=120, squeeze=False, layout="constrained"
    )
    for column, panel in enumerate(panels):
        for axes, measured, unit in zip(grid[:, column], ("seconds", "memory_mb"), ("seconds", "MB"), strict=True):
            for name, (marker, line) in zip(names, styles, strict=False):
                points = [(row.tokens, getattr(row, measured)) for row in groups(rows)[(*panel, name)] if row.seconds]
                color, face = ("black", "black") if name == "sema" else ("dimgrey", "white")
                axes.plot(
                    *zip(*points, strict=True), line, marker=marker, color=color, markerfacecolor=face, label=name
                )
            axes.set(xscale="log", yscale="log", xlabel="tokens of the first stage", ylabel=unit)
            axes.set_title(", ".join(panel))
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    figure.savefig(path)
    pyplot.close(figure)
