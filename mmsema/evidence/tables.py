"""What is trained and tested for each table. Options are what ``--cfg-options`` of tools/train.py takes."""

from dataclasses import dataclass
from typing import Dict

COST = "default_hooks.cost.type=mmsema.MeasureCost"


@dataclass(frozen=True)
class Row:
    """One line of a table: its options come after the table's."""

    options: str = ""
    config: str = ""  # instead of the table's
    tested: str = ""  # in a table of tests: the row of the table ``tests`` whose checkpoint it is


@dataclass(frozen=True)
class Table:
    """Runs that differ in their rows' options only, each with several seeds."""

    title: str
    config: str
    options: str  # the budget
    rows: Dict[str, Row]
    metrics: Dict[str, str]  # column: its name in the run's scalars, the first one decides
    quick: str  # options that make a run short
    tests: str = ""  # another table: its checkpoints are tested, nothing is trained
    every: int = 1  # of a detector's test pictures, the first of so many is used


MIXERS = ("sema", "window", "linear", "inline", "softmax", "focused", "mala", "rala")
MIXER_ROWS = {name: Row(f"model.backbone.mixer={name}") for name in MIXERS}


def _backbone(options: str, **head: str) -> str:
    """Another backbone in SEMA's place: ``options`` below model.backbone, ``head`` for what follows it."""
    parts = [f"model.backbone.{option}" for option in ("_delete_=True", *options.split())]
    return " ".join(parts + [f"model.{key.replace('__', '.')}={value}" for key, value in head.items()])


# like SEMA-pico in size, two blocks a stage so that Swin's windows are shifted once; ResNet has no smaller one than 18
SWIN = "type=SwinTransformer embed_dims=32 depths=[2,2,2,2] num_heads=[1,2,4,8] drop_path_rate=0.0"
SMALL_SWIN = "arch.embed_dims=32 arch.depths=[2,2,2,2] arch.num_heads=[1,2,4,8] drop_path_rate=0.0"
CONVNEXT = "type=mmpretrain.ConvNeXt arch.depths=[2,2,2,2] arch.channels=[40,80,160,320] gap_before_final_norm=False"
DETECTORS = {
    **MIXER_ROWS,
    "resnet18": Row(
        _backbone(
            "type=ResNet depth=18 out_indices=[0,1,2,3] norm_cfg.type=BN norm_eval=False",
            neck__in_channels="[64,128,256,512]",
        )
    ),
    "swin": Row(_backbone(SWIN, neck__in_channels="[32,64,128,256]")),
    "convnext": Row(_backbone(f"{CONVNEXT} out_indices=[0,1,2,3]", neck__in_channels="[40,80,160,320]")),
}
CLASSIFIERS = {
    **MIXER_ROWS,
    "resnet18": Row(_backbone("type=ResNet depth=18", head__in_channels="512")),
    "swin": Row(
        _backbone(f"type=SwinTransformer img_size=32 pad_small_map=True {SMALL_SWIN}", head__in_channels="256")
    ),
    "convnext": Row(_backbone(CONVNEXT, head__in_channels="320")),
}


def _epochs(number: int) -> str:
    """A schedule of so many epochs, with one evaluation at its end."""
    return f"train_cfg.max_epochs={number} train_cfg.val_interval={number} param_scheduler.1.end={number}"


def _first(train: int, test: int) -> str:
    """That many pictures of each data set."""
    sizes = dict(train=train, val=test, test=test)
    return " ".join(f"{name}_dataloader.dataset.indices={size}" for name, size in sizes.items())


# of 50 iterations, in place of two epochs; a checkpoint after each epoch
WARM_UP = (
    "param_scheduler.1.begin=0 param_scheduler.0.by_epoch=False param_scheduler.0.end=50 "
    "param_scheduler.0.convert_to_iter_based=False default_hooks.checkpoint.interval=1"
)
ACCURACY = {"accuracy": "accuracy/top1"}
AP = {"mask AP": "coco/segm_mAP", "box AP": "coco/bbox_mAP"}
QUICK_DETECTOR = _first(8, 2)
SHAPES = dict(config="mask-rcnn_sema-pico_fpn_shapes", options=f"{_epochs(1)} {COST}", metrics=AP, quick=QUICK_DETECTOR)
ABLATED = "custom_imports.imports=[mmsema,mmsema.analysis.ablations] model.backbone.mixer="
NUCLEI_SCALE = "test_dataloader.dataset.pipeline.1.scale_factor="
SCALES = (0.5, 0.7, 1.0, 1.4, 2.0)

TABLES: Dict[str, Table] = {
    "nuclei": Table(
        title="Nuclei: 2 epochs, 260 iterations of four crops",
        config="mask-rcnn_sema-pico_fpn_nuclei",
        options=f"{_epochs(2)} {COST}",
        rows=DETECTORS,
        metrics={**AP, "mask AP of all objects": "coco/nucleus_precision"},
        quick=QUICK_DETECTOR,
    ),
    "shapes": Table(title="Shapes: 1 epoch, 400 iterations of four pictures", rows=DETECTORS, **SHAPES),
    "cifar10": Table(
        title="CIFAR-10 at 32 x 32: 2 epochs, 782 iterations of 128 pictures",
        config="sema-pico_cifar10",
        options=f"{_epochs(2)} {WARM_UP} {COST}",
        rows=CLASSIFIERS,
        metrics=ACCURACY,
        quick=_first(256, 128),
    ),
    "rsscn7": Table(
        title="RSSCN7 at 128 x 128: 4 epochs, 284 iterations of 32 pictures",
        config="sema-pico_rsscn7",
        options=f"{_epochs(4)} {WARM_UP} {COST}",
        rows=CLASSIFIERS,
        metrics=ACCURACY,
        quick=_first(64, 32),
    ),
    "ablations": Table(
        title="Shapes: SEMA with one thing changed",
        rows={
            "sema": MIXER_ROWS["sema"],
            "averaging none": MIXER_ROWS["window"],
            **{f"averaging {name}": Row(f"model.backbone.averaging={name}") for name in ("max", "weighted", "scaled")},
            **{f"window {side}": Row(f"model.backbone.window_size={side}") for side in (4, 5, 8)},
            "no RoPE": Row(f"{ABLATED}sema_no_rope"),
            "no LePE": Row(f"{ABLATED}sema_no_lepe"),
            "no gate": Row(f"{ABLATED}sema_no_gate"),
            "scale 1": Row(f"{ABLATED}sema_scale_1"),
            "scale 1/d": Row(f"{ABLATED}sema_scale_d"),
        },
        **SHAPES,
    ),
    "whole-picture": Table(
        title="Same or different: 800 iterations of 32 pictures",
        config="sema-onestage_same-or-different",
        options=f"{_epochs(4)} {COST}",
        rows={
            **MIXER_ROWS,
            **{f"averaging {name}": Row(f"model.backbone.averaging={name}") for name in ("max", "weighted", "scaled")},
        },
        metrics=ACCURACY,
        quick="train_dataloader.dataset.groups=16 val_dataloader.dataset.groups=8 test_dataloader.dataset.groups=8",
    ),
    "resolution": Table(
        title="Nuclei: the same weights on test pictures of other sizes",
        config="mask-rcnn_sema-pico_fpn_nuclei",
        options="",
        rows={
            f"{name} x{scale}": Row(f"{NUCLEI_SCALE}{scale}", tested=name)
            for name in (*MIXERS, "resnet18")
            for scale in SCALES
        },
        metrics={"mask AP": "coco/segm_mAP", "box AP": "coco/bbox_mAP"},
        quick="test_dataloader.dataset.indices=2",
        tests="nuclei",
        every=3,
    ),
}
