"""Processor time, not time on the clock; the median; parameters."""

import sys
import time
from types import SimpleNamespace

import pytest
from torch import nn

from mmsema.engine import MeasureCost


def busy(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_scalars():
    written = {}
    model = nn.ModuleDict(dict(backbone=nn.Linear(3, 4), head=nn.Linear(4, 1)))
    visualizer = SimpleNamespace(add_scalars=lambda values, step: written.update(values, step=step))
    runner = SimpleNamespace(model=model, iter=7, visualizer=visualizer)
    hook = MeasureCost()
    hook.after_train_epoch(runner)
    assert not written  # nothing was trained
    hook.before_train_epoch(runner)
    for index, seconds in enumerate((0.01, 0.02, 0.3)):
        time.sleep(0.05)
        busy(seconds)
        hook.after_train_iter(runner, index)
    hook.after_train_epoch(runner)
    assert written.pop("cost/seconds") == pytest.approx(0.02, abs=0.01)
    if sys.platform.startswith("linux"):
        assert 100 < written.pop("cost/memory_mb") < 20_000
    assert written == {"cost/iterations": 7, "cost/parameters": 21, "cost/backbone_parameters": 16, "step": 7}
    del model["backbone"]  # semi-supervised models hold theirs elsewhere
    hook.after_train_epoch(runner)
    assert written["cost/parameters"] == 5
