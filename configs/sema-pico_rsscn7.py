# RSSCN7, pictures from above, SEMA-pico, reduced to 128 x 128 pixels. Where the pictures come from: docs/datasets.md.
# python tools/train.py configs/sema-pico_rsscn7.py
_base_ = "./sema-pico_cifar10.py"

num_classes = 7
data_preprocessor = dict(
    num_classes=num_classes,
    mean=[95.2, 97.8, 87.4],
    std=[50.5, 45.6, 46.4],  # of the training pictures, RGB
)
model = dict(head=dict(num_classes=num_classes))
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="RandomResizedCrop", scale=128, crop_ratio_range=(0.5, 1.0)),
    dict(type="RandomFlip", prob=[0.25, 0.25, 0.25], direction=["horizontal", "vertical", "diagonal"]),
    dict(type="PackInputs"),
]
test_pipeline = [dict(type="LoadImageFromFile"), dict(type="Resize", scale=128), dict(type="PackInputs")]
train_dataloader = dict(batch_size=32, dataset=dict(data_root="data/rsscn7", pipeline=train_pipeline))
val_dataloader = dict(batch_size=32, dataset=dict(data_root="data/rsscn7", pipeline=test_pipeline))
test_dataloader = val_dataloader
auto_scale_lr = dict(base_batch_size=32)
default_hooks = dict(logger=dict(interval=20))
