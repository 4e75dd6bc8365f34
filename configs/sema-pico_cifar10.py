# CIFAR-10, SEMA-pico, at its own 32 x 32 pixels. Where the pictures come from: docs/datasets.md.
# python tools/train.py configs/sema-pico_cifar10.py
_base_ = "./sema-pico_digits.py"

data_preprocessor = dict(mean=[125.2, 122.6, 113.1], std=[62.8, 62.2, 66.8])  # of the training pictures, RGB
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="RandomCrop", crop_size=32, padding=4),
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    dict(type="PackInputs"),
]
test_pipeline = [dict(type="LoadImageFromFile"), dict(type="PackInputs")]
dataset = dict(_delete_=True, type="CustomDataset", data_root="data/cifar10", with_label=True)
train_dataloader = dict(
    batch_size=128,
    num_workers=1,
    persistent_workers=True,
    dataset=dict(dataset, data_prefix=dict(img_path="train"), pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=1,
    persistent_workers=True,
    dataset=dict(dataset, data_prefix=dict(img_path="test"), pipeline=test_pipeline),
)
test_dataloader = val_dataloader
auto_scale_lr = dict(base_batch_size=128)
default_hooks = dict(logger=dict(interval=100))
