# Mask R-CNN, SEMA-T, 1x schedule, float16 mixed precision.
# Paper's row: none that we know of. Our row: not run. GPU memory and hours: not measured.
# tools/dist_train.sh configs/mask-rcnn_sema-t_fpn_amp-1x_coco.py 8
_base_ = "./mask-rcnn_sema-t_fpn_1x_coco.py"

optim_wrapper = dict(type="AmpOptimWrapper", dtype="float16", loss_scale="dynamic")
