# Mask R-CNN, SEMA-pico, on the nuclei of the 2018 Data Science Bowl: crops of 256 pixels in training, whole pictures in
# testing. Where the pictures come from and how they are converted: docs/datasets.md.
# python tools/train.py configs/mask-rcnn_sema-pico_fpn_nuclei.py
_base_ = "./_base_/mask-rcnn_sema-pico_fpn.py"

model = dict(
    rpn_head=dict(anchor_generator=dict(scales=[2, 4])),  # half of the nuclei are smaller than 20 pixels
    roi_head=dict(bbox_head=dict(num_classes=1), mask_head=dict(num_classes=1)),
    train_cfg=dict(rcnn=dict(sampler=dict(num=64))),
    test_cfg=dict(rpn=dict(nms_pre=1000, max_per_img=500), rcnn=dict(max_per_img=400)),  # a picture has up to 375
)

data_root = "data/nuclei/"
metainfo = dict(classes=("nucleus",))
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomCrop", crop_size=(256, 256)),
    dict(type="RandomFlip", prob=[0.25, 0.25, 0.25], direction=["horizontal", "vertical", "diagonal"]),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale_factor=1.0),  # as they are
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=1,
    batch_sampler=None,
    dataset=dict(
        data_root=data_root,
        ann_file="annotations/instances_train.json",
        data_prefix=dict(img="train/"),
        metainfo=metainfo,
        filter_cfg=dict(filter_empty_gt=True, min_size=0),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=1,
    dataset=dict(
        data_root=data_root,
        ann_file="annotations/instances_test.json",
        data_prefix=dict(img="test/"),
        metainfo=metainfo,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
# mAP counts the best 100 objects of a picture; nucleus_precision, the same for one class, counts all
val_evaluator = dict(ann_file=data_root + "annotations/instances_test.json", classwise=True)
test_evaluator = val_evaluator
