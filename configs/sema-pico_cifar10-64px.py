# CIFAR-10, SEMA-pico, enlarged to 64 x 64 pixels, which makes the four maps 16, 8, 4 and 2 wide.
# python tools/train.py configs/sema-pico_cifar10-64px.py
_base_ = "./sema-pico_cifar10.py"

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="RandomCrop", crop_size=32, padding=4),
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    dict(type="Resize", scale=64, interpolation="bicubic"),
    dict(type="PackInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=64, interpolation="bicubic"),
    dict(type="PackInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
