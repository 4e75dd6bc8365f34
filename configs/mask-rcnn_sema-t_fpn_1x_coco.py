# Mask R-CNN, SEMA-T, 1x schedule.
# Paper's row: not stated for this schedule. Our row: not run. GPU memory and hours: not measured.
# python tools/train.py configs/mask-rcnn_sema-t_fpn_1x_coco.py
_base_ = [
    "mmdet::_base_/models/mask-rcnn_r50_fpn.py",
    "mmdet::_base_/datasets/coco_instance.py",
    "mmdet::_base_/schedules/schedule_1x.py",
    "mmdet::_base_/default_runtime.py",
]
custom_imports = dict(imports=["mmsema"], allow_failed_imports=False)

# torchvision's RoIAlign reads channels_last maps correctly, mmcv's does not
roi_layer = dict(use_torchvision=True)
model = dict(
    # no pretrained weights exist yet; with some: init_cfg=dict(type="Pretrained", checkpoint=...)
    backbone=dict(_delete_=True, type="SEMA", arch="tiny", drop_path_rate=0.1),
    neck=dict(in_channels=[64, 128, 256, 512]),
    roi_head=dict(
        bbox_roi_extractor=dict(roi_layer=roi_layer),
        mask_roi_extractor=dict(roi_layer=roi_layer),
    ),
)

# batch 16 = 8 GPUs x 2 images
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=1000),
    dict(type="MultiStepLR", by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]
