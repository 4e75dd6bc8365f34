"""Real sizes in the hosts: what their own preprocessors pad is seen, and a detector sees each picture as alone."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmsema.models.padding import find_sizes

SIZES = [(64, 96), (50, 41), (33, 96)]
NORMALISE = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])


def pictures(black=False):
    """Pictures with a black bottom row where asked: after normalisation that is not 0."""
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8) for size in SIZES]
    for picture in inputs if black else ():
        picture[:, -9:] = 0
        picture[:, :, -9:] = 0
    return inputs


def preprocess(scope, training):
    init_default_scope(scope)
    if scope == "mmdet":
        from mmdet.structures import DetDataSample as Sample

        cfg = dict(type="DetDataPreprocessor", **NORMALISE, bgr_to_rgb=True, pad_size_divisor=32)
    elif scope == "mmseg":
        from mmseg.structures import SegDataSample as Sample

        cfg = dict(type="SegDataPreProcessor", **NORMALISE, bgr_to_rgb=True, size=(64, 96), pad_val=0, seg_pad_val=255)
        cfg.update(test_cfg=dict(size_divisor=32))
    else:
        from mmpretrain.structures import DataSample as Sample

        cfg = dict(type="ClsDataPreprocessor", **NORMALISE, to_rgb=True, pad_size_divisor=32)
    samples = [Sample(metainfo=dict(img_shape=size, ori_shape=size)) for size in SIZES]
    if scope == "mmseg":
        from mmengine.structures import PixelData

        for sample, size in zip(samples, SIZES, strict=True):
            sample.gt_sem_seg = PixelData(data=torch.zeros(1, *size, dtype=torch.long))
    if scope == "mmpretrain":
        samples = None
    data = dict(inputs=pictures(black=True), data_samples=samples)
    return MODELS.build(cfg)(data, training)["inputs"]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("scope", ["mmdet", "mmpretrain", "mmseg"])
def test_sizes_are_seen_in_what_the_preprocessors_make(scope, training):
    pytest.importorskip(scope)
    if scope == "mmseg" and not training:
        pytest.skip("mmseg tests pictures of one size at a time")
    x = preprocess(scope, training)
    assert x.shape[2:] == (64, 96)
    assert find_sizes(x, 0.0).tolist() == [list(size) for size in SIZES]


def test_a_detector_sees_each_picture_as_alone():
    """Maps of the backbone inside mmdet's own test step, mixed and alone, from the same uint8 pictures."""
    from mmdet.structures import DetDataSample

    cfg = Config.fromfile("configs/mask-rcnn_sema-pico_fpn_shapes.py")
    init_default_scope("mmdet")
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).eval()
    maps = []
    model.backbone.register_forward_hook(lambda module, given, out: maps.append(out))

    def test(inputs):
        metainfo = [dict(img_shape=t.shape[1:], ori_shape=t.shape[1:], scale_factor=(1.0, 1.0)) for t in inputs]
        model.test_step(dict(inputs=inputs, data_samples=[DetDataSample(metainfo=m) for m in metainfo]))
        return maps.pop()

    inputs = pictures()
    together = test(inputs)
    for i, (picture, (h, w)) in enumerate(zip(inputs, SIZES, strict=True)):
        for a, b, stride in zip(together, test([picture]), (4, 8, 16, 32), strict=True):
            rows, columns = -(-h // stride), -(-w // stride)
            real = b[0, :, :rows, :columns]
            assert (a[i, :, :rows, :columns] - real).norm() <= 1e-5 * real.norm()
            assert not a[i, :, rows:].any() and not a[i, :, :, columns:].any()
