"""The weights in the repository: whole, small, without code, and as good as the model index says."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmsema.checkpoint import load_weights, read_checkpoint

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs"))
from make_model_zoo import load_models  # noqa: E402

MODELS_WITH_WEIGHTS = [model for model in load_models() if "Weights" in model]
METRICS = {"Top 1 Accuracy": "accuracy/top1", "box AP": "coco/bbox_mAP", "mask AP": "coco/segm_mAP"}
each = pytest.mark.parametrize("model", MODELS_WITH_WEIGHTS, ids=lambda model: model["Name"])


def test_files_are_those_of_the_index_and_small():
    files = sorted((ROOT / "results/weights").iterdir())
    assert files == sorted(ROOT / model["Weights"] for model in MODELS_WITH_WEIGHTS) and files
    assert sum(file.stat().st_size for file in files) < 12e6


@each
def test_every_tensor_fits_the_config(model):
    path = ROOT / model["Weights"]
    assert re.fullmatch(model["Name"] + r"-[0-9a-f]{8}\.pth", path.name)
    content = torch.load(path, weights_only=True)  # tensors and plain data, whoever reads it
    read_checkpoint(path)  # holds the name's hash against the content
    assert set(content) == {"state_dict", "meta"} and content["meta"]["dataset_meta"]["classes"]
    cfg = Config.fromfile(str(ROOT / model["Config"]))
    init_default_scope(cfg.default_scope)
    built = MODELS.build(cfg.model)
    report = load_weights(built, path, min_matched=1.0)
    assert not report.missing and not report.ignored
    for name, tensor in built.state_dict().items():
        stored = content["state_dict"][name]
        assert stored.dtype == (torch.float16 if tensor.is_floating_point() else tensor.dtype)
        assert torch.equal(tensor, stored.to(tensor.dtype))


@each
def test_they_start_a_backbone(model):
    cfg = Config.fromfile(str(ROOT / model["Config"])).model.backbone
    stored = torch.load(ROOT / model["Weights"], weights_only=True)["state_dict"]
    backbone = MODELS.build(dict(cfg, init_cfg=dict(type="Pretrained", checkpoint=str(ROOT / model["Weights"]))))
    backbone.init_weights()
    state = backbone.state_dict()
    assert all(torch.equal(tensor, stored[f"backbone.{name}"].to(tensor.dtype)) for name, tensor in state.items())


@pytest.mark.long
@each
def test_they_score_what_the_index_says(model, tmp_path):
    """tools/test.py on the real test pictures; the index has one decimal of percent."""
    cfg = Config.fromfile(str(ROOT / model["Config"]))
    if not (ROOT / cfg.test_dataloader.dataset.data_root).is_dir():
        pytest.skip(f"{cfg.test_dataloader.dataset.data_root} is not there; docs/datasets.md has it")
    command = [sys.executable, "tools/test.py", model["Config"], model["Weights"], "--work-dir", tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for result in model["Results"]:
        for name, value in result["Metrics"].items():
            (found,) = set(re.findall(rf"{METRICS[name]}: ([\d.]+)", done.stdout + done.stderr))
            measured = float(found) * (1 if "accuracy" in METRICS[name] else 100)
            assert measured == pytest.approx(value, abs=0.15), name
