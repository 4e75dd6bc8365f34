"""What training costs, into the run's scalars."""

import statistics
import sys
import time
from pathlib import Path
from typing import Any, List, Optional

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from ...registry import HOOKS


def _peak_mb() -> Optional[float]:
    """The most that was ever resident of this process. The other measure, ``ru_maxrss``, starts with the parent's."""
    if not sys.platform.startswith("linux"):
        return None
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


@HOOKS.register_module()
class MeasureCost(Hook):
    """After each epoch, write ``cost/`` scalars: processor seconds, memory, parameters, and the iterations so far.

    ``cost/seconds`` is the processor time of an iteration of the main process on the CPU, all its threads together, the
    median since training began or went on: other work on the machine changes it less than the time on the clock.
    ``cost/memory_mb``, on Linux only, is its peak resident memory. Data workers do not count in either.
    """

    def __init__(self) -> None:
        self.seconds: List[float] = []
        self.last = 0.0

    def before_train_epoch(self, runner: Runner) -> None:
        self.last = time.process_time()

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Optional[dict] = None
    ) -> None:
        now = time.process_time()
        self.seconds.append(now - self.last)
        self.last = now

    def after_train_epoch(self, runner: Runner) -> None:
        if not self.seconds:
            return
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        scalars = dict(
            seconds=statistics.median(self.seconds),
            memory_mb=_peak_mb(),
            iterations=runner.iter,
            parameters=sum(p.numel() for p in model.parameters()),
        )
        if hasattr(model, "backbone"):
            scalars["backbone_parameters"] = sum(p.numel() for p in model.backbone.parameters())
        values = {f"cost/{key}": value for key, value in scalars.items() if value is not None}
        runner.visualizer.add_scalars(values, step=runner.iter)
