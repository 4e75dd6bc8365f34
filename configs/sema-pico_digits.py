# Handwritten digits (the 1,797 real ones that scikit-learn carries), SEMA-pico: minutes on two CPU cores.
# python tools/train.py configs/sema-pico_digits.py
_base_ = [
    "mmpretrain::_base_/models/swin_transformer/tiny_224.py",
    "mmpretrain::_base_/schedules/imagenet_bs1024_adamw_swin.py",
    "mmpretrain::_base_/default_runtime.py",
]
custom_imports = dict(imports=["mmsema"], allow_failed_imports=False)

num_classes = 10
data_preprocessor = dict(num_classes=num_classes, mean=[78.0, 78.0, 78.0], std=[95.0, 95.0, 95.0])
model = dict(
    backbone=dict(_delete_=True, type="SEMA", arch="pico", out_indices=(3,)),
    head=dict(num_classes=num_classes, in_channels=256),
    train_cfg=None,
)
train_pipeline = [
    dict(type="Resize", scale=32),
    dict(type="RandomCrop", crop_size=32, padding=3),
    dict(type="PackInputs"),
]
test_pipeline = [dict(type="Resize", scale=32), dict(type="PackInputs")]
train_dataloader = dict(
    batch_size=64,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(type="mmsema.Digits", split="train", pipeline=train_pipeline),
    sampler=dict(type="DefaultSampler", shuffle=True),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(type="mmsema.Digits", split="test", pipeline=test_pipeline),
    sampler=dict(type="DefaultSampler", shuffle=False),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="Accuracy", topk=(1,))
test_evaluator = val_evaluator

max_epochs = 20
train_cfg = dict(max_epochs=max_epochs, val_interval=5)
optim_wrapper = dict(optimizer=dict(lr=2e-3))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=True, end=2, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=True, begin=2, end=max_epochs, convert_to_iter_based=True),
]
auto_scale_lr = dict(base_batch_size=64)
default_hooks = dict(logger=dict(interval=20), checkpoint=dict(interval=5, max_keep_ckpts=1))
