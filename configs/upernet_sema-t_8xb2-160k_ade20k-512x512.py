# UPerNet, SEMA-T, ADE20K at 512 x 512, 160,000 iterations at batch 8 x 2 = 16.
# Paper's row: none that we know of. Our row: not run. GPU memory and hours: not measured.
# tools/dist_train.sh configs/upernet_sema-t_8xb2-160k_ade20k-512x512.py 8
_base_ = [
    "mmseg::_base_/models/upernet_swin.py",
    "mmseg::_base_/datasets/ade20k.py",
    "mmseg::_base_/default_runtime.py",
    "mmseg::_base_/schedules/schedule_160k.py",
]
custom_imports = dict(imports=["mmsema"], allow_failed_imports=False)

model = dict(
    data_preprocessor=dict(size=(512, 512)),
    # no pretrained weights exist yet; with some: init_cfg=dict(type="Pretrained", checkpoint=...)
    backbone=dict(_delete_=True, type="SEMA", arch="tiny", drop_path_rate=0.3),
    decode_head=dict(in_channels=[64, 128, 256, 512], num_classes=150),
    auxiliary_head=dict(in_channels=256, num_classes=150),
)
train_dataloader = dict(batch_size=2)

# mmseg's schedule for Swin; no weight decay on norms and biases
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="AdamW", lr=6e-5, betas=(0.9, 0.999), weight_decay=0.01),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type="PolyLR", power=1.0, eta_min=0.0, by_epoch=False, begin=1500, end=160000),
]
auto_scale_lr = dict(base_batch_size=16)
