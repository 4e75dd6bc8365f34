"""The powers, what is not run, memory that is really used, and the command."""

import csv
import os
import runpy
import sys
from pathlib import Path

import pytest
import torch

from mmsema.benchmark import mixer_cost as module

TOOL = Path(__file__).resolve().parents[2] / "tools/analysis_tools/mixer_cost.py"
linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads Linux's /proc")


def row(tokens, seconds=None, mixer="sema"):
    return module.Row("mixer", "forward", mixer, 4 * int(tokens**0.5), tokens, seconds, seconds and 10.0 * tokens)


def test_power_of_what_was_measured():
    rows = [row(100, 0.1), row(400, 1.6), row(1600, 25.6), row(6400)]
    assert module.power(rows, "seconds") == pytest.approx(2)
    assert module.power(rows, "memory_mb") == pytest.approx(1)
    assert module.power(rows[3:], "seconds") is None


def test_what_would_take_too_long_is_a_row_that_says_so(monkeypatch):
    def measure(row, device):
        row.seconds, row.memory_mb = (row.tokens / 1e4) ** (2 if row.mixer == "softmax" else 1), 1.0

    monkeypatch.setattr(module, "measure", measure)
    rows = list(module.mixer_cost(["sema", "softmax"], ["mixer"], ["forward"], [400, 800, 1600, 3200], limit=100))
    notes = {(row.mixer, row.pixels): row.note for row in rows if row.note}
    assert notes == {
        ("softmax", 1600): "not run: 256 s expected, the limit is 100 s",
        ("softmax", 3200): "not run: 4096 s expected, the limit is 100 s",
    }


@linux
def test_memory_is_what_a_run_needs(monkeypatch):
    """A step that fills 200 MB and gives it back counts as 200 MB, one that fills nothing as next to nothing."""
    for megabytes in (0, 200):
        monkeypatch.setattr(
            module, "_make_step", lambda row, device, mb=megabytes: lambda: torch.ones(mb * 2**18).sum()
        )
        measured = module.measure(row(100), "cpu")
        assert measured.seconds > 0 and measured.memory_mb == pytest.approx(megabytes, abs=30), measured


@linux
def test_a_killed_run_is_a_row_that_says_so(monkeypatch):
    monkeypatch.setattr(module, "_make_step", lambda row, device: lambda: os.kill(os.getpid(), 9))
    assert "ended with -9" in module.measure(row(100), "cpu").note


@linux
@pytest.mark.slow
def test_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(module, "QUICK_PIXELS", (64, 96))
    arguments = [TOOL, "--quick", "--levels", "mixer", "--mixers", "sema", "softmax", "--out-dir", tmp_path]
    monkeypatch.setattr(sys, "argv", [str(argument) for argument in arguments])
    runpy.run_path(str(TOOL), run_name="__main__")
    with open(tmp_path / "mixer_cost.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 2 and all(float(row["seconds"]) > 0 for row in rows)
    assert rows[0]["threads"] == "1" and rows[0]["torch"] == torch.__version__
    assert (tmp_path / "mixer_cost.png").stat().st_size > 10_000
    assert "time ~ n^p" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", [str(TOOL), "--mixers", "sema", "attention"])
    with pytest.raises(SystemExit, match="2"):
        runpy.run_path(str(TOOL), run_name="__main__")
    assert "--mixers must be among sema, window" in capsys.readouterr().err
