"""The pictures of a backbone's inside show what its mixers compute."""

import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from mmsema import SEMA
from mmsema.analysis.feature_maps import (
    attention_weights,
    draw_features,
    local_share,
    pca_colors,
    run_stages,
    shown_picture,
    window_of,
)
from mmsema.apis import load_model, read_config
from mmsema.engine import UsageError
from mmsema.models.mixers import MIXERS

ROOT = Path(__file__).resolve().parents[2]
TOOL = str(ROOT / "tools/analysis_tools/visualize.py")


@pytest.fixture(scope="module")
def stages():
    """Two stages on ragged maps, 10 x 17 and 5 x 9 tokens, with weights so large that attention is uneven."""
    torch.manual_seed(0)
    backbone = SEMA(dict(embed_dims=8, depths=(1, 2), num_heads=(2, 1)), out_indices=(1,)).eval()
    for block in (block for blocks in backbone.stages for block in blocks):
        torch.nn.init.normal_(block.mixer.qk_proj.weight)
        torch.nn.init.normal_(block.in_proj.weight)
    return run_stages(backbone, torch.randn(1, 3, 40, 68))


def test_the_last_block_of_every_stage_is_seen(stages):
    assert [tuple(stage.output.shape) for stage in stages] == [(1, 10, 17, 8), (1, 5, 9, 16)]
    for stage in stages:
        assert stage.x.shape == stage.output.shape and stage.x.std() > 0


def mixed(mixer, x):
    """What the mixer itself computes, without what its gate and LePE add to that."""
    with torch.no_grad():
        kept = mixer.lepe.weight.clone(), mixer.lepe.bias.clone()
        mixer.lepe.weight.zero_(), mixer.lepe.bias.zero_()
        out = mixer(x, torch.ones_like(x))
        mixer.lepe.weight.copy_(kept[0]), mixer.lepe.bias.copy_(kept[1])
    return out


def test_weights_times_values_plus_mean_is_what_the_mixer_computes(stages):
    for stage in stages:
        mixer, x = stage.mixer, stage.x
        expected, mean = mixed(mixer, x)[0], x.mean((1, 2))[0]
        values = x.unflatten(-1, (mixer.num_heads, -1))[0]  # (H, W, heads, d)
        shares = local_share(mixer, x)
        uneven = 0.0
        for row in range(x.shape[1]):
            for column in range(x.shape[2]):
                weights = attention_weights(mixer, x, row, column)
                torch.testing.assert_close(weights.sum((1, 2)), torch.ones(mixer.num_heads))
                rows, columns = window_of(mixer, x, row, column)
                local = torch.einsum("nhw,hwnd->nd", weights, values[rows, columns]).flatten()
                torch.testing.assert_close(local + mean, expected[row, column], rtol=1e-4, atol=1e-5)
                share = local.norm() / (local.norm() + mean.norm())
                torch.testing.assert_close(shares[row, column], share, rtol=1e-4, atol=1e-5)
                uneven = max(uneven, (weights.max() * weights[0].numel()).item())
        assert uneven > 3  # else weights that are all equal would pass
        assert shares.max() - shares.min() > 0.1


@pytest.mark.parametrize("name", ["sema_scale_1", "sema_scale_d", "sema_no_rope"])
def test_weights_are_those_of_a_changed_mixer(name):
    from mmsema.analysis import ablations  # noqa: F401

    torch.manual_seed(0)
    mixer, x = MIXERS[name](8, 2, 7), torch.randn(1, 5, 6, 8)
    torch.nn.init.normal_(mixer.qk_proj.weight)
    with torch.no_grad():
        out = mixer.attend(mixer.qk_proj(x), x) - x.mean((1, 2))
        weights = attention_weights(mixer, x, 3, 4)
    local = torch.einsum("nhw,hwnd->nd", weights, x[0].unflatten(-1, (2, 4))).flatten()
    torch.testing.assert_close(local, out[0, 3, 4], rtol=1e-4, atol=1e-5)


def test_a_position_names_the_token_under_it(stages):
    assert stages[0].token((0.0, 0.0)) == (0, 0) and stages[0].token((1.0, 1.0)) == (9, 16)
    assert stages[0].token((0.9, 0.25)) == (2, 15) and stages[1].token((0.9, 0.25)) == (1, 8)


def test_colours_separate_two_kinds_of_token():
    x = torch.zeros(1, 4, 6, 8)
    x[:, :, 3:, 5] = 2.0
    x += 1e-3 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    colors = pca_colors(x)
    assert colors.shape == (4, 6, 3) and colors.min() >= 0 and colors.max() <= 1
    assert np.ptp(colors[:, :3, 0]) < 0.1 and np.ptp(colors[:, 3:, 0]) < 0.1
    assert abs(colors[0, 0, 0] - colors[0, 5, 0]) > 0.9


@pytest.mark.parametrize("config", ["mask-rcnn_sema-pico_fpn_shapes", "sema-t_8xb128_in1k"])
def test_the_picture_that_is_shown_has_the_colours_of_the_file(config):
    """Through the config's resizing and normalising and back."""
    cfg = read_config(config)
    if cfg.default_scope == "mmpretrain":
        cfg.model.backbone.arch = "pico"
        cfg.model.head.in_channels = 256
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 2] = 200  # BGR
    picture = shown_picture(load_model(cfg, device="cpu").prepare(red), cfg)
    np.testing.assert_allclose(picture[5, 5], [200 / 255, 0, 0], atol=1e-5)


def test_both_sheets_are_drawn(tmp_path, monkeypatch):
    cv2.imwrite(str(tmp_path / "a.png"), np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8))
    arguments = [
        "sema-pico_digits",
        str(tmp_path / "a.png"),
        "--out-dir",
        str(tmp_path / "out"),
        "--position",
        "1",
        "0",
    ]
    monkeypatch.setattr(sys, "argv", [TOOL, *arguments])
    runpy.run_path(TOOL, run_name="__main__")
    for name in ("stages.png", "heads.png"):
        sheet = cv2.imread(str(tmp_path / "out" / name))
        assert min(sheet.shape[:2]) > 400 and sheet.std() > 10


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(position=(0.5, 1.5)), "position must be two numbers from 0 to 1"),
        (dict(image="nowhere.png"), "nowhere.png is not a picture"),
        (dict(config="mila.py"), "the backbone must be SEMA with its own mixer and the mean, mila.py has another one"),
    ],
)
def test_errors_name_what_is_wrong(changes, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cv2.imwrite("a.png", np.zeros((8, 8, 3), np.uint8))
    cfg = Config.fromfile(str(ROOT / "configs/sema-pico_digits.py"))
    cfg.model.backbone.type = "MILA"
    cfg.dump("mila.py")
    with pytest.raises(UsageError, match=words):
        draw_features(**{**dict(config="sema-pico_digits", image="a.png"), **changes})
