# Mask R-CNN, SEMA-pico, on the nuclei without cropping: whole pictures of nine sizes, the short side reduced to 256
# pixels and the long one to 512 at most, so that most batches are padded, in training and in testing.
# python tools/train.py configs/mask-rcnn_sema-pico_fpn_nuclei-whole.py
_base_ = "./mask-rcnn_sema-pico_fpn_nuclei.py"

resize = dict(type="ResizeShortestEdge", scale=256, max_size=512)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    resize,
    dict(type="RandomFlip", prob=[0.25, 0.25, 0.25], direction=["horizontal", "vertical", "diagonal"]),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    resize,
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=4, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
