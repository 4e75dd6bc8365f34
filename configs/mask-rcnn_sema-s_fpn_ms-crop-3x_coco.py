# Mask R-CNN, SEMA-S, 3x schedule, multi-scale training.
# Paper's row: none, this size is ours. Our row: not run. GPU memory and hours: not measured.
# python tools/train.py configs/mask-rcnn_sema-s_fpn_ms-crop-3x_coco.py
_base_ = "./mask-rcnn_sema-t_fpn_ms-crop-3x_coco.py"

model = dict(backbone=dict(arch="small"))
