# Evaluation at 768 x 768 of weights trained at 224 x 224 by sema-t_8xb128_in1k.py; nothing is trained here.
# Paper's row: not stated in our sources. Our row: not run. GPU memory and hours: not measured.
# python tools/test.py configs/sema-t_8xb128_in1k-768px.py CHECKPOINT
_base_ = "./sema-t_8xb128_in1k.py"

test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="ResizeEdge", scale=878, edge="short", backend="pillow", interpolation="bicubic"),
    dict(type="CenterCrop", crop_size=768),
    dict(type="PackInputs"),
]
val_dataloader = dict(batch_size=8, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
