"""SEMA inside mmsegmentation: its own config with the backbone swapped, and ours through the tools."""

import re
import sys
from pathlib import Path

import commands
import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope

import mmsema  # noqa: F401, so that configs find mmseg::

pytest.importorskip("mmseg")
ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs/upernet_sema-t_8xb2-160k_ade20k-512x512.py"
ADE = Path("data/ade/ADEChallengeData2016")
SMALL = f"""
_base_ = {str(CONFIG)!r}
model = dict(
    data_preprocessor=dict(size=(64, 64)),
    backbone=dict(arch="pico"),
    decode_head=dict(in_channels=[32, 64, 128, 256], channels=8),
    auxiliary_head=dict(in_channels=128, channels=8),
)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", reduce_zero_label=True),
    dict(type="RandomCrop", crop_size=(64, 64)),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(num_workers=0, persistent_workers=False, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = dict(num_workers=0, persistent_workers=False)
train_cfg = dict(max_iters=2, val_interval=2)
default_hooks = dict(checkpoint=dict(interval=2), logger=dict(interval=1))
"""


def host_config(arch: dict) -> Config:
    """mmseg's own UPerNet with SEMA as the backbone, as a user would write it."""
    channels = [arch["embed_dims"] << stage for stage in range(4)]
    text = f"""
_base_ = "mmseg::_base_/models/upernet_r50.py"
model = dict(
    pretrained=None,  # mmseg would hand it to the backbone
    backbone=dict(_delete_=True, type="mmsema.SEMA", arch={arch}),
    decode_head=dict(in_channels={channels}, channels=16, num_classes=5),
    auxiliary_head=dict(in_channels={channels[2]}, channels=8, num_classes=5),
    data_preprocessor=dict(size=(64, 96)),
)
"""
    return Config.fromstring(text, ".py")


def batch(height: int, width: int) -> dict:
    """Two random pictures, of which the left half is class 1 and the right half class 4."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    labels = torch.ones(1, height, width, dtype=torch.int64)
    labels[..., width // 2 :] = 4
    metainfo = dict(img_shape=(height, width), ori_shape=(height, width))
    samples = [SegDataSample(metainfo=metainfo, gt_sem_seg=PixelData(data=labels)) for _ in range(2)]
    inputs = list(torch.randint(0, 256, (2, 3, height, width), dtype=torch.uint8))
    return dict(inputs=inputs, data_samples=samples)


@pytest.mark.slow
def test_host_config_with_swapped_backbone_learns_and_predicts():
    from mmseg.registry import MODELS

    init_default_scope("mmseg")
    torch.manual_seed(0)
    model = MODELS.build(host_config(dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1))).model).train()
    model.init_weights()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    data, losses = batch(64, 96), []
    for _ in range(16):
        optimizer.zero_grad()
        loss, _ = model.parse_losses(model(**model.data_preprocessor(data, True), mode="loss"))
        loss.backward()
        unused = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
        assert not unused
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    with torch.no_grad():
        found = model.eval()(**model.data_preprocessor(batch(50, 70), False), mode="predict")
    for sample in found:
        assert sample.pred_sem_seg.data.shape == (1, 50, 70) and sample.pred_sem_seg.data.max() < 5


@pytest.fixture(scope="module")
def ade20k(tmp_path_factory) -> Path:
    """A folder with two training and two validation pictures in ADE20K's layout, and a config of reduced size."""
    folder, generator = tmp_path_factory.mktemp("ade"), np.random.default_rng(0)
    for split in ("training", "validation"):
        for kind in ("images", "annotations"):
            (folder / ADE / kind / split).mkdir(parents=True)
        for name in ("a", "b"):
            height, width = generator.integers(70, 100, 2)
            image = generator.integers(0, 256, (height, width, 3), np.uint8)
            labels = np.repeat(generator.integers(0, 151, (height, 1), np.uint8), width, axis=1)  # 0: no class
            assert cv2.imwrite(str(folder / ADE / "images" / split / f"{name}.jpg"), image)
            assert cv2.imwrite(str(folder / ADE / "annotations" / split / f"{name}.png"), labels)
    (folder / "small.py").write_text(SMALL)
    return folder


def run(cwd: Path, tool: str, *arguments, code: int = 0) -> str:
    done = commands.run(sys.executable, ROOT / "tools" / tool, *arguments, cwd=cwd, code=code)
    return done.stdout + done.stderr


@pytest.mark.slow
def test_our_config_trains_and_is_tested(ade20k, tmp_path):
    printed = run(ade20k, "train.py", "small.py")
    losses = [float(loss) for loss in re.findall(r"Iter\(train\) \[\d/2\].* loss: (\S+)", printed)]
    assert len(losses) == 2 and all(0 < loss < 100 for loss in losses) and "mIoU" in printed
    checkpoint = ade20k / "work_dirs/small/iter_2.pth"
    work_dir = ["--work-dir", tmp_path / "work", "--show-dir", tmp_path / "pictures"]
    printed = run(ade20k, "test.py", "small.py", checkpoint, *work_dir, "--out", tmp_path / "out.pkl")
    assert "Iter(test) [2/2]" in printed and "mIoU" in printed
    assert (tmp_path / "out.pkl").stat().st_size > 0
    assert len(list((tmp_path / "pictures").rglob("*.png"))) == 2


@pytest.mark.slow
def test_missing_ade20k_is_explained_in_one_line(tmp_path):
    printed = run(tmp_path, "train.py", CONFIG, code=2)
    lines = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1 and "Traceback" not in printed
    for words in (f"{ADE} is missing", f"expected in {ADE}", "sceneparsing.csail.mit.edu"):
        assert words in lines[0]
