# Are a picture's two markers alike (mmsema.SameOrDifferent)? One stage: what joins them can only be the mixer.
# Paper's row: none. Our row: docs/evidence.md. GPU memory and hours: not measured; 40 seconds of a CPU core.
# python tools/train.py configs/sema-onestage_same-or-different.py
_base_ = "./sema-pico_digits.py"

num_classes = 2
data_preprocessor = dict(num_classes=num_classes, mean=[128.0, 128.0, 128.0], std=[20.0, 20.0, 20.0])
model = dict(
    backbone=dict(arch=dict(_delete_=True, embed_dims=32, depths=(2,), num_heads=(1,)), out_indices=(0,)),
    head=dict(num_classes=num_classes, in_channels=32),
)
dataset = dict(_delete_=True, type="mmsema.SameOrDifferent", pipeline=[dict(type="PackInputs")])
train_dataloader = dict(batch_size=32, dataset=dict(dataset, split="train", groups=1600))
val_dataloader = dict(dataset=dict(dataset, split="test", groups=250))
test_dataloader = val_dataloader

optim_wrapper = dict(optimizer=dict(lr=4e-3))
max_epochs = 4
train_cfg = dict(max_epochs=max_epochs, val_interval=1)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.01, by_epoch=False, end=50),
    dict(type="CosineAnnealingLR", eta_min=1e-5, by_epoch=True, begin=0, end=max_epochs, convert_to_iter_based=True),
]
