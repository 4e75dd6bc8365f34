"""Weights, entropy and distances against loops over single queries, the theorem's bounds, and the command."""

import csv
import math
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mixer_equations import positive, softmax_of, turn

from mmsema import SEMA
from mmsema.analysis import dispersion as module
from mmsema.engine import UsageError

TOOL = Path(__file__).resolve().parents[2] / "tools/analysis_tools/dispersion.py"


def weights_of(sample, attention, query, head):
    """(n,), of one query, from the equations."""
    H, W, heads, d = sample.v.shape
    rows, cols = torch.arange(H).repeat_interleave(W), torch.arange(W).repeat(H)
    q, k = (t.reshape(H * W, -1).double() for t in (sample.q, sample.k))
    part = slice(head * d, (head + 1) * d)
    if attention == "linear":
        products = positive(q)[query, part] @ positive(k)[:, part].T
        return products / products.sum()
    scores = turn(q, rows, cols)[query, part] @ turn(k, rows, cols)[:, part].T / d**0.5
    if attention == "sema":
        w = sample.window
        same = (rows // w == rows[query] // w) & (cols // w == cols[query] // w)
        scores = scores.masked_fill(~same, -torch.inf)
    return softmax_of(scores[None])[0]


@pytest.mark.parametrize("attention", module.ATTENTIONS)
def test_measures_what_it_says(attention):
    sample = module.random_sample(9, torch.Generator().manual_seed(0))
    queries = torch.tensor([0, 40, 70, 80])
    row = module.measure(sample, attention, queries)
    largest, entropy, to_mean = [], [], []
    for head in range(module.RANDOM_HEADS):
        v = sample.v[:, :, head].reshape(81, -1).double()
        for query in queries:
            weights = weights_of(sample, attention, query, head)
            assert row["lower"] <= weights[weights > 0].min() and weights.max() <= row["upper"]
            largest.append(weights.max())
            entropy.append(-sum(w * math.log(w) for w in weights.tolist() if w))
            to_mean.append((weights @ v - v.mean(0)).norm() / v.square().sum(1).mean().sqrt())
    for key, values in dict(largest=largest, entropy=entropy, to_mean=to_mean).items():
        assert row[key] == pytest.approx(sum(map(float, values)) / len(values), rel=1e-4), key


def test_linear_attention_disperses_and_windows_do_not():
    rows = module.groups(module.dispersion(sides=(14, 28, 42), queries=32))
    slopes = {attention: module.slope(rows["random", attention], "largest") for attention in module.ATTENTIONS}
    assert slopes["linear"] == pytest.approx(-1, abs=0.1)
    assert slopes["softmax"] < -0.5 and abs(slopes["sema"]) < 0.1


@pytest.fixture
def trained(tmp_path):
    """A classifier with random weights, saved, and a picture."""
    config, checkpoint, picture = (tmp_path / name for name in ("tiny.py", "tiny.pth", "picture.png"))
    arch = dict(embed_dims=16, depths=(1,), num_heads=(2,))
    config.write_text(
        f"""
default_scope = "mmpretrain"
data_preprocessor = dict(mean=[127.0] * 3, std=[50.0] * 3, to_rgb=True, num_classes=2)
test_pipeline = [dict(type="LoadImageFromFile"), dict(type="PackInputs")]
test_dataloader = dict(dataset=dict(type="CustomDataset", classes=["a", "b"], data_root="", pipeline=test_pipeline))
model = dict(
    type="ImageClassifier",
    backbone=dict(type="mmsema.SEMA", arch={arch}, out_indices=(0,)),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(type="LinearClsHead", num_classes=2, in_channels=16),
)
"""
    )
    from mmengine.config import Config
    from mmengine.registry import MODELS, init_default_scope

    torch.manual_seed(0)
    cfg = Config.fromfile(config)
    init_default_scope("mmpretrain")
    torch.save(MODELS.build(cfg.model).state_dict(), checkpoint)
    cv2.imwrite(str(picture), np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
    return config, checkpoint, picture


def test_trained_inputs_are_what_the_mixer_saw(trained):
    config, checkpoint, picture = trained
    samples = dict(module.trained_samples(config, checkpoint, [picture], (7, 10)))
    assert {side: tuple(sample.v.shape) for side, sample in samples.items()} == {7: (7, 7, 2, 8), 10: (10, 10, 2, 8)}
    backbone = SEMA(dict(embed_dims=16, depths=(1,), num_heads=(2,)), out_indices=0).eval()
    state = torch.load(checkpoint, weights_only=True)
    backbone.load_state_dict({k[len("backbone.") :]: v for k, v in state.items() if k.startswith("backbone.")})
    seen = []
    backbone.stages[0][0].mixer.register_forward_pre_hook(lambda _, given: seen.append(given[0][0]))
    pixels = cv2.resize(cv2.imread(str(picture)), (40, 40), interpolation=cv2.INTER_CUBIC)[..., ::-1].copy()
    with torch.no_grad():
        backbone((torch.from_numpy(pixels).permute(2, 0, 1)[None].float() - 127) / 50)
    torch.testing.assert_close(samples[10].v.flatten(-2), seen[0], rtol=1e-4, atol=1e-4)


def test_command_is_seeded(trained, tmp_path, monkeypatch, capsys):
    config, checkpoint, picture = trained
    monkeypatch.setattr(module, "QUICK_SIDES", (7, 10))
    tables = []
    for out in ("one", "two"):
        arguments = [TOOL, "--quick", "--config", config, "--checkpoint", checkpoint, "--pictures", picture]
        arguments += ["--out-dir", tmp_path / out]
        monkeypatch.setattr(sys, "argv", [str(argument) for argument in arguments])
        runpy.run_path(str(TOOL), run_name="__main__")
        with open(tmp_path / out / "dispersion.csv") as file:
            tables.append([dict(row, command="") for row in csv.DictReader(file)])
        assert (tmp_path / out / "dispersion.png").stat().st_size > 10_000
    assert tables[0] == tables[1] and len(tables[0]) == 2 * 3 * 2
    assert "n^-" in capsys.readouterr().out  # the fitted powers


def test_usage_errors(trained, tmp_path):
    config, checkpoint, picture = trained
    with pytest.raises(UsageError, match="need config, checkpoint and pictures, all three"):
        module.dispersion(checkpoint=checkpoint)
    with pytest.raises(UsageError, match="none.png is not a picture"):
        module.dispersion(config, checkpoint, [tmp_path / "none.png"], sides=(7,))
