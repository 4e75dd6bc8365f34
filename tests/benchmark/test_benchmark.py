"""The benchmark: no speed without parity, nothing lost when a part fails, and the peers compute what they claim to."""

import csv
import dataclasses
import runpy
import sys
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mmsema import benchmark
from mmsema.benchmark import backbones, detector, gpu_checks, operators, sweep
from mmsema.benchmark.report import Report, Row
from mmsema.models import SEMA

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
    case = operators.attention_case(2, 7, 14, 64, torch.float16, "cpu", compiled=False)
    one_pass = 2 * 7 * 14 * 64 * 2
    assert case.bytes_moved == (4 * one_pass, 11 * one_pass)  # q, k, v -> out; q, k, v, grad -> three gradients
    assert case.flops[0] == 2 * 7 * 14 * 64 * 49 * 4


def test_a_failing_part_is_reported_and_the_rest_goes_on(tmp_path, monkeypatch):
    def fails(report):
        raise RuntimeError("broken")

    monkeypatch.setattr(operators, "kernels", fails)
    monkeypatch.setattr(backbones, "scaling", lambda report: report.add(Row("scaling", *"abcd")))
    rows = benchmark.run("cpu", ["kernels", "checks", "scaling"], tmp_path, minutes=1)
    assert [row.note for row in rows] == ["FAILED: RuntimeError: broken", "not run: needs a CUDA device", ""]
    late = benchmark.run("cpu", ["scaling"], tmp_path, minutes=0)
    assert [row.note for row in late] == ["not run: out of time"]


@pytest.mark.slow
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


def test_parts_for_a_gpu_say_so_on_a_cpu(tmp_path):
    rows = benchmark.run("cpu", ["compiled", "detector", "sweep"], tmp_path, minutes=1)
    assert [(row.part, row.note) for row in rows] == [
        (part, "not run: needs a CUDA device") for part in ("compiled", "detector", "sweep")
    ]


@pytest.mark.slow
def test_compiled_backbones_are_checked_and_timed(report, monkeypatch):
    compiled = []

    def traced(module, dynamic):  # the graphs without Inductor, which takes a C++ compiler long
        compiled.append(module)
        return compile_with(module, dynamic=dynamic)

    compile_with = partial(torch.compile, backend="aot_eager")
    arch = dict(embed_dims=16, depths=(1, 1), num_heads=(1, 2))
    make = lambda H, W: backbones.OnKernel(SEMA(arch, out_indices=(0, 1), pad_value=None), "torch")  # noqa: E731
    monkeypatch.setattr(torch, "compile", traced)
    monkeypatch.setattr(backbones, "builders", lambda device: {"MILA-T": make})
    backbones.time_models("compiled", ["MILA-T"], 1, 36, 40, report, 1, backward=True, how="compiled")
    assert {key for key, ms in times_of(report).items() if ms} == {
        ("forward, compiled", "MILA-T"),
        ("forward+backward, compiled", "MILA-T"),
    }
    assert [type(module) for module in compiled] == [SEMA]  # not what sets the backend
    monkeypatch.setattr(torch, "compile", lambda module, dynamic: lambda x: [2 * out for out in module(x)])
    backbones.time_models("compiled", ["MILA-T"], 1, 36, 40, report, 1, backward=False, how="compiled")
    assert report.rows[-1].ms is None and "not timed" in report.rows[-1].note


def test_the_important_cases_come_first(report, monkeypatch):
    cases = []
    monkeypatch.setattr(operators, "_run", lambda calls, report, rounds: cases.extend(call.args for call in calls))
    report.device = "cuda"
    operators.kernels(report)
    at = [case[-7:-1] if isinstance(case[-1], bool) else case[-6:] for case in cases]
    first_stages = [at.index((*stage, 64, torch.bfloat16, "cuda")) for stage in operators.FIRST_STAGES]
    assert first_stages == sorted(first_stages) and max(first_stages) < at.index((128, 28, 28, 128, *at[0][-2:]))
    dtypes = [case[-2] for case in at]
    assert dtypes == sorted(dtypes, key=[torch.bfloat16, torch.float16, torch.float32].index)
    assert [case[:4] for case in cases if case[-1] is True] == [(128, 56, 56, 64)]


def test_only_configurations_that_agree_are_timed(report):
    constants = SimpleNamespace(FACTOR=1)

    def run(q, k, v, grad):
        if constants.FACTOR == 4:
            raise RuntimeError("too large")
        return [constants.FACTOR * v, grad]

    candidates = {str(f): dict(FACTOR=f) for f in (4, 1, 1.01, 1.03, torch.nan)}
    sweep.run_sweep(sweep.Sweep("scale", 2, constants, candidates, run), (1, 7, 7, 64), report, rounds=3)
    rows = {row.candidate: row for row in report.rows}
    assert {name for name, row in rows.items() if row.ms} == {"1", "1.01"} and constants.FACTOR == 1
    assert rows["4"].note == "FAILED: RuntimeError: too large"
    assert "3.0e-02, above 2e-02: not timed" in rows["1.03"].note and "not timed" in rows["nan"].note
    assert rows["1"].gb_per_s == pytest.approx(2 * 7 * 7 * 64 * 2 / rows["1"].ms / 1e6)


@pytest.mark.slow
def test_a_sweep_in_the_interpreter(report, monkeypatch):
    """On less than a window, with the first and the last configuration of every kernel."""
    pytest.importorskip("triton", "3.2")
    from mmsema_kernels import window_attention

    seen = set()
    registers = window_attention.forward_registers
    monkeypatch.setattr(window_attention, "forward_registers", lambda *at: seen.add(registers(*at)))
    report.device = "cuda" if torch.cuda.is_available() else "cpu"
    shape = (1, 3, 5, 64)
    sweeps = sweep.sweeps(*shape, report.device)
    for each in sweeps:
        ends = {name: each.candidates[name] for name in (next(iter(each.candidates)), list(each.candidates)[-1])}
        sweep.run_sweep(dataclasses.replace(each, candidates=ends), shape, report, rounds=1)
        assert [(row.op, row.candidate) for row in report.rows[-2:] if row.ms] == [(each.op, name) for name in ends]
        for constants in each.candidates.values():
            assert all(hasattr(each.module, name) for name in constants)
    assert len(sweeps) == 8 and seen == {window_attention.FORWARD_REGISTERS[32, 7], 72}


@pytest.mark.slow
def test_a_detector_is_compared_and_timed(report, tmp_path):
    """Image files, losses and steps of a small detector; the real ones are read only."""
    images = detector.load(tmp_path, 4, (96, 64))
    assert len(images) == 4 and {image["inputs"].shape for image in images} == {(3, 64, 96)}
    assert all(len(image["data_samples"].gt_instances.masks) for image in images)
    for name in (detector.SEMA_T, detector.SWIN_T):
        model = detector.read(name).model
        assert model.backbone.init_cfg is None and model.backbone.drop_path_rate == 0
        assert model.roi_head.mask_head.num_classes == 4
        assert model.roi_head.bbox_roi_extractor.roi_layer.use_torchvision
    cfg = detector.read("configs/mask-rcnn_sema-pico_fpn_shapes.py")
    model = detector.build(cfg, "cpu")
    batch = detector.on_device(model, images[:2])
    note = detector.compare(model, batch, ("torch", "reference"), torch.float32)
    errors = {name: float(error) for name, error in (part.rsplit(" ", 1) for part in note.split(", "))}
    assert {"loss", "loss_rpn_cls", "loss_cls", "loss_mask", "gradients of the backbone"} < set(errors)
    assert max(errors.values()) < 1e-2
    with pytest.raises(ValueError, match="must be one of"):
        detector.losses(model, batch, "none", torch.float32)
    models = {"SEMA": (cfg, "torch"), "none": (cfg, "none")}
    detector.time_steps(models, images, 2, torch.float32, report, rounds=1)
    failed, timed = report.rows
    assert failed.candidate == "none" and failed.note.startswith("FAILED: ValueError")
    assert (timed.op, timed.candidate, timed.shape) == ("step", "SEMA", "2x3x64x96")
    assert timed.note == f"{1e3 / timed.ms:.2f} steps a second"


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
