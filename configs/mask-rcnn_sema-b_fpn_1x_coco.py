# Mask R-CNN, SEMA-B, 1x schedule.
# Paper's row: none, this size is ours. Our row: not run. GPU memory and hours: not measured.
# tools/dist_train.sh configs/mask-rcnn_sema-b_fpn_1x_coco.py 8
_base_ = "./mask-rcnn_sema-t_fpn_1x_coco.py"

model = dict(
    backbone=dict(arch="base"),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
