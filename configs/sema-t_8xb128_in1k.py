# ImageNet-1k classification, SEMA-T, 300 epochs at batch 8 x 128 = 1024.
# Paper's row: 83.7 % top-1. Our row: not run. GPU memory and hours: not measured.
# tools/dist_train.sh configs/sema-t_8xb128_in1k.py 8
_base_ = [
    "mmpretrain::_base_/models/swin_transformer/tiny_224.py",
    "mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py",
    "mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py",
    "mmpretrain::_base_/default_runtime.py",
]
custom_imports = dict(imports=["mmsema"], allow_failed_imports=False)

model = dict(
    backbone=dict(_delete_=True, type="SEMA", arch="tiny", drop_path_rate=0.2, out_indices=(3,)),
    head=dict(in_channels=512),
)
train_dataloader = dict(batch_size=128)
val_dataloader = dict(batch_size=128)
test_dataloader = dict(batch_size=128)
optim_wrapper = dict(clip_grad=dict(max_norm=5.0))
