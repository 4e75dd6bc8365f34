# The same for boxes alone.
_base_ = "./mask-rcnn_sema-pico_fpn.py"

model = dict(
    type="FasterRCNN",
    roi_head=dict(mask_head=None, mask_roi_extractor=None),
    train_cfg=dict(
        rcnn=dict(
            _delete_=True,  # mask_size
            assigner=dict(
                type="MaxIoUAssigner",
                pos_iou_thr=0.5,
                neg_iou_thr=0.5,
                min_pos_iou=0.5,
                match_low_quality=False,
                ignore_iof_thr=-1,
            ),
            sampler=dict(type="RandomSampler", num=32, pos_fraction=0.5, neg_pos_ub=-1, add_gt_as_proposals=True),
            pos_weight=-1,
            debug=False,
        ),
    ),
    test_cfg=dict(
        rcnn=dict(_delete_=True, score_thr=0.05, nms=dict(type="nms", iou_threshold=0.5), max_per_img=100),
    ),
)
