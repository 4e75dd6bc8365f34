"""Real sizes in the hosts: what their own preprocessors pad is seen, and a detector sees each picture as alone."""

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmsema.apis import load_model
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


def record_maps(model):
    """A list that gets what the backbone returns, call by call."""
    maps = []
    model.backbone.register_forward_hook(lambda module, given, out: maps.append(out))
    return maps


def assert_as_alone(together, i, alone, size):
    """The maps of picture i of a batch are those that it has alone, perhaps padded, and 0 outside it."""
    for a, b in zip(together, alone, strict=True):
        stride = 4 * a.shape[1] // 32  # of SEMA-pico
        rows, columns = (-(-side // stride) for side in size)
        real = b[0, :, :rows, :columns]
        assert (a[i, :, :rows, :columns] - real).norm() <= 1e-5 * real.norm()
        assert not a[i, :, rows:].any() and not a[i, :, :, columns:].any()


def as_images():
    return [picture.permute(1, 2, 0).numpy() for picture in pictures()]


def test_a_detector_sees_each_picture_as_alone():
    """Maps of the backbone inside mmdet's own test step, mixed and alone, from the same uint8 pictures."""
    from mmdet.structures import DetDataSample

    cfg = Config.fromfile("configs/mask-rcnn_sema-pico_fpn_shapes.py")
    init_default_scope("mmdet")
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).eval()
    maps = record_maps(model)

    def test(inputs):
        metainfo = [dict(img_shape=t.shape[1:], ori_shape=t.shape[1:], scale_factor=(1.0, 1.0)) for t in inputs]
        model.test_step(dict(inputs=inputs, data_samples=[DetDataSample(metainfo=m) for m in metainfo]))
        return maps.pop()

    inputs = pictures()
    together = test(inputs)
    for i, (picture, size) in enumerate(zip(inputs, SIZES, strict=True)):
        assert_as_alone(together, i, test([picture]), size)


def test_inferencers_of_detection():
    """mmdet's own, three pictures in a batch, against itself and ours, which take them one by one."""
    torch.manual_seed(0)
    detector = load_model("configs/mask-rcnn_sema-pico_fpn_shapes.py", device="cpu")
    maps = record_maps(detector.model)
    options = dict(return_datasamples=True, no_save_vis=True)
    samples = detector.inferencer(as_images(), batch_size=3, **options)["predictions"]
    (together,) = maps
    sizes = [sample.img_shape for sample in samples]
    assert len(set(sizes)) == 3 and len(together[0]) == 3
    for i, (image, size) in enumerate(zip(as_images(), sizes, strict=True)):
        detector.inferencer(image, **options)
        assert_as_alone(together, i, maps.pop(), size)
        detector.predict(image, score_thr=0.3)
        assert_as_alone(together, i, maps.pop(), size)


def test_inferencer_of_classification():
    """mmpretrain's stacks pictures of one size; what it pads is the multiple that ``pad_size_divisor`` asks for."""
    cfg = Config.fromfile("configs/sema-pico_digits.py")
    cfg.test_dataloader.dataset.pipeline = [dict(type="PackInputs")]
    cfg.data_preprocessor.pad_size_divisor = 32
    cfg.model.backbone.out_indices = (0, 1, 2, 3)
    torch.manual_seed(0)
    classifier = load_model(cfg, device="cpu")
    maps = record_maps(classifier.model)
    images = [as_images()[1], as_images()[1][::-1].copy()]
    classifier.inferencer(images, batch_size=2)
    (together,) = maps
    assert together[0].shape == (2, 32, 16, 16)
    classifier.model.data_preprocessor.pad_size_divisor = 1
    for i, image in enumerate(images):
        classifier.inferencer(image)
        assert maps[-1][0].shape == (1, 32, 13, 11)
        assert_as_alone(together, i, maps[-1], SIZES[1])


def test_inferencer_of_segmentation():
    """mmseg's takes pictures of one size at a time, too, and pads them by the preprocessor's ``test_cfg``."""
    pytest.importorskip("mmseg")
    from mmseg.apis import MMSegInferencer

    cfg = Config.fromfile("configs/upernet_sema-t_8xb2-160k_ade20k-512x512.py")
    cfg.test_dataloader.dataset.pipeline = [dict(type="LoadImageFromFile"), dict(type="PackSegInputs")]
    cfg.model.backbone.arch = "pico"
    cfg.model.decode_head.update(in_channels=[32, 64, 128, 256], channels=8)
    cfg.model.auxiliary_head.update(in_channels=128, channels=8)
    cfg.model.data_preprocessor.test_cfg = dict(size_divisor=32)
    torch.manual_seed(0)
    with pytest.warns(UserWarning):  # that the weights are random
        inferencer = MMSegInferencer(cfg, device="cpu", show_progress=False)
    maps = record_maps(inferencer.model)
    images = [as_images()[1], as_images()[1][::-1].copy()]
    inferencer(images, batch_size=2)
    (together,) = maps
    assert together[0].shape == (2, 32, 16, 16)
    inferencer.model.data_preprocessor.test_cfg = None
    for i, image in enumerate(images):
        inferencer(image)
        assert maps[-1][0].shape == (1, 32, 13, 11)
        assert_as_alone(together, i, maps[-1], SIZES[1])
