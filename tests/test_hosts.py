"""SEMA inside the hosts: mmdet's own configs with the backbone swapped, and our configs at reduced size."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmengine.runner import load_state_dict

from mmsema.engine import to_channels_last

ROOT_CONFIG = "configs/mask-rcnn_sema-pico_fpn_shapes.py"
HOST_CONFIGS = {
    "mask-rcnn": "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py",
    "cascade-mask-rcnn": "mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py",
    "retinanet": "mmdet::retinanet/retinanet_r50_fpn_1x_coco.py",
    "atss": "mmdet::atss/atss_r50_fpn_1x_coco.py",
}


def host_config(name: str) -> Config:
    """The installed package's config with SEMA as the backbone, as a user would write it."""
    text = f"""
_base_ = "{HOST_CONFIGS[name]}"
model = dict(
    backbone=dict(_delete_=True, type="mmsema.SEMA", arch="pico"),
    neck=dict(in_channels=[32, 64, 128, 256]),
)
"""
    return Config.fromstring(text, ".py")


def build(cfg: Config) -> torch.nn.Module:
    from mmdet.registry import MODELS

    init_default_scope("mmdet")
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    return model


def batch(num_classes: int, sizes=((96, 128), (112, 96))) -> dict:
    """Two random images with one boxed and masked object each."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    generator = torch.Generator().manual_seed(1)
    inputs, samples = [], []
    for height, width in sizes:
        inputs.append(torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8))
        mask = np.zeros((1, height, width), np.uint8)
        mask[:, 20:70, 30:80] = 1
        sample = DetDataSample(
            metainfo=dict(img_shape=(height, width), ori_shape=(height, width), scale_factor=(1.0, 1.0), img_id=0)
        )
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor([[30.0, 20.0, 80.0, 70.0]]),
            labels=torch.tensor([num_classes - 1]),
            masks=BitmapMasks(mask, height, width),
        )
        samples.append(sample)
    return dict(inputs=inputs, data_samples=samples)


@pytest.mark.slow
@pytest.mark.parametrize("name", HOST_CONFIGS)
def test_mmdet_config_with_swapped_backbone_trains(name):
    model = build(host_config(name)).train()
    losses, _ = model.parse_losses(model(**model.data_preprocessor(batch(80), True), mode="loss"))
    losses.backward()
    assert losses.isfinite()
    unused = [n for n, p in model.backbone.named_parameters() if p.grad is None and p.requires_grad]
    # RetinaNet's and ATSS's necks start at the second map, so nothing pulls on the norm of the first
    assert unused == ([] if "mask" in name else ["norm0.weight", "norm0.bias"])


def build_decided(cfg: Config) -> torch.nn.Module:
    """A model with random weights so large that scores and masks differ clearly from object to object."""
    model = build(cfg).eval()
    for layer in (model.rpn_head.rpn_cls, model.roi_head.bbox_head.fc_cls, model.roi_head.mask_head.conv_logits):
        torch.nn.init.normal_(layer.weight, std=0.1)
    return model


def predict(model, data, memory_format=torch.contiguous_format):
    with torch.no_grad():
        prepared = model.data_preprocessor(data, False)
        prepared["inputs"] = prepared["inputs"].contiguous(memory_format=memory_format)
        return [sample.pred_instances for sample in model(**prepared, mode="predict")]


def assert_same_predictions(first, second):
    for a, b in zip(first, second, strict=True):
        assert len(a) == len(b) > 5
        assert a.scores.max() - a.scores.min() > 0.1 and a.masks.any() and not a.masks.all()
        torch.testing.assert_close(a.scores, b.scores, rtol=0, atol=1e-4)
        torch.testing.assert_close(a.bboxes, b.bboxes, rtol=0, atol=1e-2)
        assert (a.masks != b.masks).float().mean() < 1e-4


def test_predictions_are_the_same_in_channels_last():
    """Our configs, converted as any PyTorch user would."""
    model, data = build_decided(Config.fromfile(ROOT_CONFIG)), batch(4)
    expected = predict(model, data)
    model.to(memory_format=torch.channels_last)
    assert_same_predictions(predict(model, data, torch.channels_last), expected)


def test_to_channels_last_closes_the_trap_of_mmcv_roi_align():
    """mmdet's own config with mmcv's RoIAlign: wrong with .to(), right with to_channels_last."""
    cfg = Config.fromfile(ROOT_CONFIG)
    for extractor in (cfg.model.roi_head.bbox_roi_extractor, cfg.model.roi_head.mask_roi_extractor):
        extractor.roi_layer.use_torchvision = False
    model, data = build_decided(cfg), batch(4)
    expected = predict(model, data)
    model.to(memory_format=torch.channels_last)
    with pytest.raises(AssertionError):
        assert_same_predictions(predict(model, data, torch.channels_last), expected)
    assert to_channels_last(model) is model
    assert_same_predictions(predict(model, data, torch.channels_last), expected)


def test_to_channels_last_closes_the_trap_of_deformable_convolutions():
    """Their own weights, and those of the convolution in them."""
    from mmcv.ops import ModulatedDeformConv2dPack

    torch.manual_seed(0)
    model, x = torch.nn.Sequential(ModulatedDeformConv2dPack(8, 8, 3, padding=1)), torch.randn(1, 8, 12, 12)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.1)
    with torch.no_grad():
        expected = model(x)
        found = to_channels_last(model)(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("scope", ["mmdet", "mmpretrain", "mmseg", "mmengine"])
def test_the_scoped_name_needs_no_import(scope, tmp_path):
    pytest.importorskip(scope)
    code = (
        "from mmengine.registry import init_default_scope, MODELS; "
        f"init_default_scope({scope!r}); "
        "model = MODELS.build(dict(type='mmsema.SEMA', arch='pico')); "
        "assert type(model).__module__ == 'mmsema.models.sema', type(model)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_state_dict_round_trip_is_strict():
    model, other = build(host_config("retinanet")), build(host_config("retinanet"))
    with torch.no_grad():
        for p in other.parameters():
            p.add_(1)
    load_state_dict(other, model.state_dict(), strict=True)
    for (name, a), b in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
