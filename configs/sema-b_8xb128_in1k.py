# ImageNet-1k classification, SEMA-B, 300 epochs at batch 8 x 128 = 1024.
# Paper's row: none, this size is ours. Our row: not run. GPU memory and hours: not measured.
# tools/dist_train.sh configs/sema-b_8xb128_in1k.py 8
_base_ = "./sema-t_8xb128_in1k.py"

model = dict(
    backbone=dict(arch="base", drop_path_rate=0.5),
    head=dict(in_channels=768),
)
