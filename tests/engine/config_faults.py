"""Wrong configs, each with what the one line on it must say; tests/engine/test_check.py plants them all.

``FAULTS`` is a list of (name, lines added to a config or the whole of it, --cfg-options, words of the line).
"""

from pathlib import Path
from typing import List, NamedTuple, Tuple

ROOT = Path(__file__).resolve().parents[2]
SHAPES = ROOT / "configs/mask-rcnn_sema-pico_fpn_shapes.py"
DIGITS = ROOT / "configs/sema-pico_digits.py"


class Fault(NamedTuple):
    name: str
    lines: str
    options: Tuple[str, ...]
    words: Tuple[str, ...]
    base: Path = SHAPES


FAULTS: List[Fault] = [
    Fault("misspelt setting", "optim_wraper = dict(type='AmpOptimWrapper')", (), ("optim_wraper", "optim_wrapper?")),
    Fault("misspelt argument of a neck", "model = dict(neck=dict(in_chanels=[1, 2]))", (),
          ("model.neck.in_chanels", "FPN has no in_chanels", "in_channels?")),
    Fault("misspelt argument of the backbone", "model = dict(backbone=dict(drop_path_rat=0.1))", (),
          ("model.backbone.drop_path_rat", "drop_path_rate?")),
    Fault("misspelt key of a model's test_cfg", "model = dict(test_cfg=dict(rpn=dict(nms_prre=5)))", (),
          ("model.test_cfg.rpn.nms_prre", "nms_pre?")),
    Fault("misspelt argument of an assigner", "model = dict(train_cfg=dict(rcnn=dict(assigner=dict(pos_iou=0.5))))", (),
          ("model.train_cfg.rcnn.assigner.pos_iou", "MaxIoUAssigner", "pos_iou_thr?")),
    Fault("misspelt key of a data loader", "train_dataloader = dict(batchsize=4)", (),
          ("train_dataloader.batchsize", "batch_size?")),
    Fault("misspelt argument of a data set", "val_dataloader = dict(dataset=dict(annfile='a.json'))", (),
          ("val_dataloader.dataset.annfile", "CocoDataset", "ann_file?")),
    Fault("misspelt argument of a transform",
          "train_dataloader = dict(dataset=dict(pipeline=[dict(type='LoadImageFromFile', imdecode='cv2'), "
          "dict(type='PackDetInputs')]))", (),
          ("train_dataloader.dataset.pipeline[0].imdecode", "imdecode_backend?")),
    Fault("misspelt argument of the optimiser", "optim_wrapper = dict(optimizer=dict(weightdecay=0.1))", (),
          ("optim_wrapper.optimizer.weightdecay", "AdamW", "weight_decay?")),
    Fault("misspelt key of paramwise_cfg", "optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mul=0.0))", (),
          ("optim_wrapper.paramwise_cfg.norm_decay_mul", "norm_decay_mult?")),
    Fault("transform that does not exist",
          "train_dataloader = dict(dataset=dict(pipeline=[dict(type='LoadImageFromFiles')]))", (),
          ("train_dataloader.dataset.pipeline[0].type", "LoadImageFromFile?")),
    Fault("hook that does not exist", "custom_hooks = [dict(type='EMAHok')]", (), ("custom_hooks[0].type", "EMAHook?")),
    Fault("backbone that does not exist", "model = dict(backbone=dict(_delete_=True, type='SEMMA'))", (),
          ("model.backbone.type", "'SEMMA'", "SEMA?")),
    Fault("data set that does not exist", "train_dataloader = dict(dataset=dict(type='CoccoDataset'))", (),
          ("train_dataloader.dataset.type", "CocoDataset?")),
    Fault("default hook without a type", "default_hooks = dict(chekpoint=dict(interval=2))", (),
          ("default_hooks.chekpoint", "checkpoint?")),
    Fault("wrong channels of the neck", "model = dict(neck=dict(in_channels=[64, 128, 256, 512]))", (),
          ("model.neck.in_channels", "must be [32, 64, 128, 256]", "[64, 128, 256, 512]")),
    Fault("wrong channels of a head", "model = dict(roi_head=dict(bbox_head=dict(in_channels=256)))", (),
          ("model.roi_head.bbox_head.in_channels", "must be 64", "256")),
    Fault("wrong channels of a classifier's head", "model = dict(head=dict(in_channels=512))", (),
          ("model.head.in_channels", "must be 256", "512"), DIGITS),
    Fault("too many strides", "model = dict(rpn_head=dict(anchor_generator=dict(strides=[4, 8, 16, 32, 64])))", (),
          ("model.rpn_head.anchor_generator.strides", "4 maps")),
    Fault("too few classes", "model = dict(roi_head=dict(bbox_head=dict(num_classes=3)))", (),
          ("model.roi_head.bbox_head.num_classes", "must be 4", "3")),
    Fault("unknown architecture", "model = dict(backbone=dict(arch='huge'))", (),
          ("model.backbone", "SEMA cannot be built", "'huge'", "tiny")),
    Fault("output that the backbone does not have", "model = dict(backbone=dict(out_indices=(0, 1, 2, 4)))", (),
          ("model.backbone", "out_indices", "4")),
    Fault("tuple for a list", "model = dict(neck=dict(in_channels=(32, 64, 128, 256)))", (),
          ("model.neck", "FPN cannot be built", "isinstance(in_channels, list)")),
    Fault("syntax error", "model = dict(backbone=dict(arch='tiny')", (), ("planted.py:2", "never closed")),
    Fault("base config that does not exist", "_base_ = 'mmdet::_base_/models/mask-rcnn_r50_fpnn.py'", (),
          ("planted.py:2", "mask-rcnn_r50_fpn.py?")),
    Fault("import that does not exist", "custom_imports = dict(imports=['mmsemma'])", (),
          ("custom_imports.imports", "'mmsemma'", "mmsema?")),
    Fault("option for no setting", "", ("modle.backbone.depth=5",), ("--cfg-options modle.backbone.depth", "model?")),
    Fault("option of the wrong kind", "", ("train_dataloader.batch_size=four",),
          ("train_dataloader.batch_size", "number", "'four'")),
    Fault("option with a text for numbers", "", ("model.neck.in_channels=many",), ("is a list in", "'many'")),
    Fault("option with a text for a part", "", ("model.neck=FPN",), ("--cfg-options model.neck", "is a dict", "'FPN'")),
    Fault("option with a text for settings", "", ("model.test_cfg=fast",), ("model.test_cfg", "is a dict", "'fast'")),
    Fault("option for classes that is no file", "", ("train_dataloader.dataset.metainfo.classes=circle",),
          ("train_dataloader.dataset.metainfo.classes", "'circle'", "no file of names")),
    Fault("option beyond a list", "", ("param_scheduler.7.end=4",), ("param_scheduler.7.end", "list of 2")),
    Fault("option for a variable", "", ("max_epochs=1",), ("--cfg-options max_epochs", "variable")),
]  # fmt: skip


def plant(fault: Fault, folder: Path) -> Path:
    """Write the config of a fault into a folder."""
    path = folder / "planted.py"
    base = "" if "_base_" in fault.lines else f"_base_ = {str(fault.base)!r}"
    path.write_text(f"{base}\n{fault.lines}\n")
    return path
