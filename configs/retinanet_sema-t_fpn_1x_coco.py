# RetinaNet, SEMA-T, 1x schedule.
# Paper's row: none that we know of. Our row: not run. GPU memory and hours: not measured.
# tools/dist_train.sh configs/retinanet_sema-t_fpn_1x_coco.py 8
_base_ = [
    "mmdet::_base_/models/retinanet_r50_fpn.py",
    "mmdet::_base_/datasets/coco_detection.py",
    "./_base_/adamw_1x.py",
    "mmdet::_base_/default_runtime.py",
]
custom_imports = dict(imports=["mmsema", "mmsema.necks"], allow_failed_imports=False)

model = dict(
    # only the maps that the neck takes: a norm without a use would have no gradient
    backbone=dict(_delete_=True, type="SEMA", arch="tiny", drop_path_rate=0.1, out_indices=(1, 2, 3)),
    neck=dict(in_channels=[128, 256, 512], start_level=0),
)
