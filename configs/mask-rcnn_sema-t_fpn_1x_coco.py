# Mask R-CNN, SEMA-T, 1x schedule.
# Paper's row: none that we know of. Our row: not run. GPU memory and hours: not measured.
# tools/dist_train.sh configs/mask-rcnn_sema-t_fpn_1x_coco.py 8
_base_ = [
    "mmdet::_base_/models/mask-rcnn_r50_fpn.py",
    "mmdet::_base_/datasets/coco_instance.py",
    "./_base_/adamw_1x.py",
    "mmdet::_base_/default_runtime.py",
]
custom_imports = dict(imports=["mmsema", "mmsema.necks"], allow_failed_imports=False)

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
