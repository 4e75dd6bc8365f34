"""Exported files beside the model, at batches and sizes that the exporters have not seen."""

import copy
import re
import runpy
import sys
from pathlib import Path

import pytest
import torch
from commands import run

from mmsema import SEMA, export
from mmsema.checkpoint import CheckpointError
from mmsema.engine import UsageError
from mmsema.models.mixers import AVERAGES, MIXERS

ROOT = Path(__file__).resolve().parents[1]
TOOL = ROOT / "tools/deployment/export.py"
needs_new_torch = pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < export.OLDEST_TORCH, reason="needs torch 2.11"
)
ARCH = dict(embed_dims=8, depths=(1,), num_heads=(2,))
CONFIG = f"""
default_scope = "mmpretrain"
model = dict(
    type="ImageClassifier",
    backbone=dict(type="mmsema.SEMA", arch={ARCH}, out_indices=(0,)),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(type="LinearClsHead", num_classes=5, in_channels=8),
)
"""


def sharpen(module: torch.nn.Module) -> torch.nn.Module:
    """Let q and k matter: as initialised, both are almost 0 and attention is uniform."""
    for name, p in module.named_parameters():
        if "proj.weight" in name:
            p.data *= 30
    return module


def backbone(**options) -> torch.nn.Module:
    torch.manual_seed(0)
    return sharpen(SEMA(ARCH, out_indices=0, **options).eval().requires_grad_(False))


@pytest.fixture
def config(tmp_path) -> Path:
    path = tmp_path / "classifier.py"
    path.write_text(CONFIG)
    return path


def rounding(module, shape) -> float:
    """How far the module itself, in float32, is from float64 on the pictures that are compared."""
    image = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        pairs = zip(module(image), copy.deepcopy(module).double()(image.double()), strict=True)
        return max((a - b).abs().max().item() for a, b in pairs)


def assert_equal(module, out, format) -> None:
    rows = export.compare(module, out, format)
    assert [row.shape for row in rows] == list(export.CHECKED) and export.TRACED not in export.CHECKED
    for row in rows:
        # 1e-5, but for focused attention: where it divides by little, float32 itself is as far from the truth as that
        assert 0.5 < row.largest < 10
        assert row.difference < max(1e-5 * max(row.largest, 1), 2 * rounding(module, row.shape)), row


MIXERS_AND_AVERAGES = [dict(mixer=name) for name in MIXERS] + [dict(averaging=name) for name in AVERAGES]
EXPORTS = [("torchscript", options) for options in MIXERS_AND_AVERAGES] + [
    pytest.param(
        "torch_export",
        options,
        marks=[needs_new_torch, *([] if options == dict(mixer="sema") else [pytest.mark.long])],
    )
    for options in MIXERS_AND_AVERAGES
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "options"), EXPORTS, ids=lambda value: value if isinstance(value, str) else "-".join(value.values())
)
def test_backbone_at_unseen_sizes(format, options, tmp_path, monkeypatch):
    monkeypatch.setenv("MMSEMA_KERNEL", "torch")  # whose graph holds for one size
    module, out = backbone(**options), tmp_path / f"out{export.SUFFIXES[format]}"
    export.export(module, out, format)
    assert_equal(module, out, format)


@pytest.mark.slow
@needs_new_torch
def test_onnx_classifier_at_unseen_sizes(config, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    module, out = sharpen(export.build(config, part="model")), tmp_path / "new" / "out.onnx"
    export.export(module, out, "onnx")
    assert_equal(module, out, "onnx")
    session = onnxruntime.InferenceSession(str(out))
    (image,), (logits,) = session.get_inputs(), session.get_outputs()
    assert (image.name, logits.name) == ("image", "logits")
    sizes = [image.shape[0], *image.shape[2:]]
    assert image.shape[1] == 3 and all(isinstance(size, str) for size in sizes) and len(set(sizes)) == 3
    assert [path.name for path in out.parent.iterdir()] == ["out.onnx"]  # weights included


def test_a_difference_is_seen(tmp_path):
    module, out = backbone(), tmp_path / "out.pt"
    export.export(module, out, "torchscript")
    module.stages[0][0].mixer.qk_proj.weight[0] += 1
    differences = [row.difference for row in export.compare(module, out, "torchscript", [(1, 3, 40, 40), (1, 3, 4, 4)])]
    assert differences[0] > export.TOLERANCE > differences[1]  # one token attends to itself, whatever q and k are


@pytest.mark.parametrize("place", [0, 1])
def test_what_is_no_number_is_seen_in_every_output(place, monkeypatch):
    outputs = [torch.ones(1, 2), torch.ones(1, 2)]
    spoilt = [t.clone() for t in outputs]
    spoilt[place][0, 1] = torch.nan
    monkeypatch.setattr(export, "load", lambda out, format: lambda image: tuple(spoilt))
    (row,) = export.compare(lambda image: tuple(outputs), "out.pt", "torchscript", [(1, 3, 4, 4)])
    assert row.largest == 1 and row.difference != row.difference


def test_another_shape_is_an_error(tmp_path):
    module, out = backbone(), tmp_path / "out.pt"
    export.export(module, out, "torchscript")
    with pytest.raises(ValueError, match=r"the file gives \(1, 8, 10, 10\), the model \(1, 1, 10, 10\)"):
        export.compare(lambda image: module(image)[0][:, :1], out, "torchscript", [(1, 3, 40, 40)])


def test_checkpoint_is_loaded_or_refused(config, tmp_path):
    module = export.build(config)
    for p in module.parameters():
        p.data.fill_(0.5)
    torch.save(module.state_dict(), tmp_path / "half.pth")
    assert export.build(config, tmp_path / "half.pth").stem.conv1[0].weight.eq(0.5).all()
    with pytest.raises(CheckpointError, match="at least 100% are needed"):
        export.build(config, tmp_path / "half.pth", part="model")


def test_what_cannot_be_exported_is_refused(config, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="has MaskRCNN, whose heads .* export its backbone with --part backbone$"):
        export.build("mask-rcnn_sema-pico_fpn_shapes", part="model")
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(UsageError, match="empty.py: the config has no model"):
        export.build(tmp_path / "empty.py")
    with pytest.raises(UsageError, match="--out must end in .onnx for --format onnx, got x.pt"):
        export.export(backbone(), "x.pt", "onnx")
    monkeypatch.setattr(export, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(UsageError, match=r'onnxscript, not installed: pip install "\.\[export\]"'):
        export.export(backbone(), "x.onnx", "onnx")
    monkeypatch.setattr(torch, "__version__", "2.1.2+cu118")
    with pytest.raises(UsageError, match="needs torch 2.11 or newer, there is 2.1.2"):
        export.export(backbone(), tmp_path / "x.pt2", "torch_export")


def run_tool(monkeypatch, *arguments) -> None:
    """The command in this process."""
    monkeypatch.setattr(sys, "argv", [str(argument) for argument in (TOOL, *arguments)])
    runpy.run_path(str(TOOL), run_name="__main__")


def test_command(config, tmp_path, monkeypatch, capsys):
    arguments = [config, "--format", "torchscript", "--part", "model", "--out", tmp_path / "out.pt"]
    run_tool(monkeypatch, *arguments)
    printed = capsys.readouterr().out
    for shape in export.CHECKED:
        assert re.search(" x ".join(map(str, shape)) + r" .* \d\.\de[+-]\d\d", printed)
    monkeypatch.setattr(export, "TOLERANCE", -1.0)
    with pytest.raises(SystemExit, match="differs from the model by more than"):
        run_tool(monkeypatch, *arguments)


def test_command_refuses_in_one_line(tmp_path):
    done = run(sys.executable, TOOL, "nowhere.py", "--format", "onnx", "--out", tmp_path / "out.onnx", code=2)
    assert "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == "error: config nowhere.py is not a file"
