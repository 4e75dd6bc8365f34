# Mask R-CNN, ResNet-18 from scratch, on the nuclei: what mask-rcnn_sema-pico_fpn_nuclei is compared with.
# Paper's row: none. Our row: box AP 35.9, mask AP 39.3 (one run, on a CPU). GPU memory and hours: not measured.
# python tools/train.py configs/mask-rcnn_r18_fpn_nuclei.py
_base_ = "./mask-rcnn_sema-pico_fpn_nuclei.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="ResNet",
        depth=18,
        out_indices=(0, 1, 2, 3),
        norm_cfg=dict(type="BN"),
        norm_eval=False,  # mmdet's default keeps the statistics of pretrained weights, here there are none
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
