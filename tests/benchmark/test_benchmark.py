"""The benchmark: no speed without parity, nothing lost when a part fails, and the peers compute what they claim to."""

import csv
import runpy
import sys
from pathlib import Path

import pytest
import torch

from mmsema import benchmark
from mmsema.benchmark import backbones, gpu_checks, operators
from mmsema.benchmark.report import Report, Row

TOOL = Path(__file__).parents[2] / "tools/analysis_tools/benchmark.py"


@pytest.fixture
def report(tmp_path):
    return Report(tmp_path, "cpu", seconds=600)


def times_of(report):
    return {(row.op, row.candidate): row.ms for row in report.rows}


def test_only_who_agrees_is_timed(report):
    def fails(x):
        raise RuntimeError("no kernel\nsecond line")

    candidates = dict(
        exact=lambda x: x * 3,
        off=lambda x: x * 3.001,
        wrong_gradient=lambda x: (x * 3).detach() + x - x.detach(),
        nan=lambda x: x * 3 + torch.nan,
        fails=fails,
    )
    inputs = lambda: operators.normal((64,), 1, torch.float32, "cpu")  # noqa: E731
    case = operators.Case("kernels", "triple", "64", inputs, lambda x: x * 3, candidates, (8e6, 16e6), (4e6, 4e6))
    operators.run_case(case, report, rounds=3)
    timed = {(row.op, row.candidate): row for row in report.rows if row.ms}
    assert set(timed) == {("triple forward", "exact"), ("triple forward+backward", "exact")}
    notes = {row.candidate: row.note for row in report.rows if not row.ms}
    assert set(notes) == {"off", "wrong_gradient", "nan", "fails"}
    assert notes["fails"] == "FAILED: RuntimeError: no kernel"
    assert all("above 1e-05: not timed" in notes[name] for name in ("off", "wrong_gradient", "nan"))
    row = timed["triple forward", "exact"]
    assert row.low_ms <= row.ms <= row.high_ms
    assert row.gb_per_s == pytest.approx(8e6 / row.ms / 1e6) and row.flop_per_byte == 0.5


@pytest.mark.parametrize("size", [(7, 14), (10, 16), (3, 9)], ids=str)
@pytest.mark.parametrize("peer", [operators.padded_sdpa, operators.flex])
def test_peers_compute_the_same(peer, size):
    q, k, v = torch.randn(3, 2, *size, 2, 16)
    expected = operators.sema_attention(q, k, v, backend="reference")
    torch.testing.assert_close(peer(q, k, v), expected, rtol=0, atol=2e-6)


def test_bytes_that_must_move():
    case = operators.attention_case(2, 7, 14, 64, torch.float16, "cpu", peers=False)
    one_pass = 2 * 7 * 14 * 64 * 2
    assert case.bytes_moved == (4 * one_pass, 11 * one_pass)  # q, k, v -> out; q, k, v, grad -> three gradients
    assert case.flops[0] == 2 * 7 * 14 * 64 * 49 * 4


def test_a_failing_part_is_reported_and_the_rest_goes_on(tmp_path, monkeypatch):
    def fails(report):
        raise RuntimeError("broken")

    monkeypatch.setattr(operators, "kernels", fails)
    monkeypatch.setattr(backbones, "scaling", lambda report: report.add(Row("scaling", *"abcd")))
    rows = benchmark.run("cpu", ["kernels", "checks", "scaling"], tmp_path, minutes=1)
    assert [row.note for row in rows] == ["FAILED: RuntimeError: broken", "not run: they need a CUDA device", ""]
    late = benchmark.run("cpu", ["scaling"], tmp_path, minutes=0)
    assert [row.note for row in late] == ["not run: out of time"]


def test_backbones_are_checked_and_timed(report, monkeypatch):
    names = ["SEMA-T", "MILA-T", "NoSuchModel"]
    backbones.time_models("backbone", names, 1, 64, 72, report, 2, backward=True)
    assert {key for key, ms in times_of(report).items() if ms} == {
        (op, name) for op in ("forward", "forward+backward") for name in names[:2]
    }
    assert "NoSuchModel" in report.rows[0].note
    monkeypatch.setattr(backbones, "relative_error", lambda *maps: 1.0)
    backbones.time_models("backbone", names[:1], 1, 64, 72, report, 2, backward=False)
    assert report.rows[-1].ms is None and "not timed" in report.rows[-1].note


@pytest.mark.slow
def test_checks_in_the_interpreter(monkeypatch):
    """The checks are for a GPU; here they run on less, so that what is wrong with them shows before."""
    pytest.importorskip("triton", "3.2")
    monkeypatch.setattr(gpu_checks, "DEVICE", "cuda" if torch.cuda.is_available() else "cpu")
    monkeypatch.setattr(gpu_checks, "SIZES", [(5, 9)])
    monkeypatch.setattr(gpu_checks, "KERNEL_TOLERANCE", {torch.float16: 1e-3})
    assert "float16" in gpu_checks.parity()
    assert gpu_checks.depthwise_parity()
    assert gpu_checks._last_image(2, 5, 9, 32) == "2x5x9x32"
    monkeypatch.setattr(gpu_checks, "KERNEL_TOLERANCE", {torch.float16: 1e-5})
    for check in (gpu_checks.parity, gpu_checks.depthwise_parity):
        with pytest.raises(AssertionError, match="float16"):
            check()


def test_command_writes_table_and_plot(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        sys, "argv", [str(TOOL), "--preset", "cpu", "--out", str(tmp_path), "--parts", "block", "ceilings"]
    )
    runpy.run_path(str(TOOL), run_name="__main__")
    with open(tmp_path / "benchmark.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["op"], row["candidate"]) for row in rows] == [
        ("block forward", "torch"),
        ("block forward+backward", "torch"),
        ("copy", "torch"),
        ("matmul", "torch"),
    ]
    assert all(float(row["ms"]) > 0 and row["torch"] == torch.__version__ and row["device"] for row in rows)
    assert (tmp_path / "roofline.png").stat().st_size > 10_000
    assert "block forward" in capsys.readouterr().out
