"""Which registry the ``type`` at a place of a config is looked up in, and what may stand beside its arguments."""

import inspect
import re
from dataclasses import dataclass
from typing import FrozenSet, Optional, Tuple

from mmengine.runner import Runner
from torch.utils.data import DataLoader


@dataclass(frozen=True)
class Place:
    """Where a dict stands.

    Attributes:
        kinds: names of the registries that its ``type`` may be in, empty where a type is not looked up at all.
        certain: the type is looked up in these and nowhere else.
        default: the type that is built where none is named; a certain place without one needs a type.
        beside: keys that the builder takes away before it builds.
    """

    kinds: Tuple[str, ...] = ()
    certain: bool = True
    default: Optional[str] = None
    beside: FrozenSet[str] = frozenset()


UNTYPED = Place(certain=False)
MODEL_PARTS = ("MODELS", "TASK_UTILS", "BATCH_AUGMENTS", "TOKENIZER", "WEIGHT_INITIALIZERS")
ANYTHING = (*MODEL_PARTS, "DATASETS", "TRANSFORMS", "HOOKS", "METRICS", "VISBACKENDS", "OPTIMIZERS", "DATA_SAMPLERS",
            "OPTIM_WRAPPERS", "FUNCTIONS", "MODEL_WRAPPERS", "VISUALIZERS", "PARAM_SCHEDULERS")  # fmt: skip
IN_MODEL = Place(MODEL_PARTS, certain=False)
ANYWHERE = Place(ANYTHING, certain=False)

MODEL = Place(("MODELS",))
DATASET = Place(("DATASETS",))
TRANSFORM = Place(("TRANSFORMS",))
HOOK = Place(("HOOKS",), beside=frozenset({"priority"}))
METRIC = Place(("METRICS",))
INITIALIZER = Place(("WEIGHT_INITIALIZERS",), beside=frozenset({"override", "name"}))
OPERATOR = Place(("mmcv.ops",), certain=False, beside=frozenset({"class_agnostic", "split_thr", "iou_thr"}))

# keys inside a model (first match); what else has a type there is found in any of MODEL_PARTS
IN_A_MODEL = (
    (re.compile(r"init_cfg|override"), INITIALIZER),
    (re.compile(r"nms|roi_layer"), OPERATOR),
    (re.compile(r"(norm|conv|act)_cfg|dcn"), Place(("MODELS",), beside=frozenset({"requires_grad",
     "fallback_on_stride", "deformable_groups"}))),
    (re.compile(r"backbone|neck|(.*_)?head|.*_roi_extractor|loss(_.+)?"), MODEL),
    (re.compile(r"(.*_)?assigner|(.*_)?sampler|bbox_coder|(anchor|prior)_generator|iou_calculator"),
     Place(("TASK_UTILS", "DATA_SAMPLERS"))),
)  # fmt: skip

# keys outside a model
ELSEWHERE = {
    "dataset": DATASET,
    "datasets": DATASET,
    "pipeline": TRANSFORM,
    "transforms": TRANSFORM,
    "vis_backends": Place(("VISBACKENDS",)),
}

_LOOPS = ("LOOPS",)
_LOADER = UNTYPED
TOP = {
    "model": MODEL,
    "tta_model": Place(("MODELS",), certain=False),
    "data_preprocessor": Place(("MODELS",), certain=False),
    "train_dataloader": _LOADER,
    "val_dataloader": _LOADER,
    "test_dataloader": _LOADER,
    "tta_pipeline": TRANSFORM,
    "optim_wrapper": Place(("OPTIM_WRAPPERS",), default="OptimWrapper", beside=frozenset({"constructor",
     "paramwise_cfg"})),
    "param_scheduler": Place(("PARAM_SCHEDULERS",), beside=frozenset({"convert_to_iter_based"})),
    "default_hooks": UNTYPED,
    "custom_hooks": HOOK,
    "visualizer": Place(("VISUALIZERS",), default="Visualizer"),
    "log_processor": Place(("LOG_PROCESSORS",), default="LogProcessor"),
    "val_evaluator": METRIC,
    "test_evaluator": METRIC,
    "train_cfg": Place(_LOOPS, beside=frozenset({"by_epoch"})),
    "val_cfg": Place(_LOOPS, default="ValLoop"),
    "test_cfg": Place(_LOOPS, default="TestLoop"),
    "model_wrapper_cfg": Place(("MODEL_WRAPPERS",), default="MMDistributedDataParallel"),
    "strategy": Place(("STRATEGIES",)),
}  # fmt: skip

LOADER_KEYS = {
    *inspect.signature(DataLoader.__init__).parameters,
    "num_batch_per_epoch", "disable_subprocess_warning",
} - {"self"}  # fmt: skip

# what the runner, mmengine's Config and the hosts' tools read from the top of a config
SETTINGS = {
    *inspect.signature(Runner.__init__).parameters, "runner_type", "strategy", "model_wrapper_cfg", "sync_bn",
    "compile", "find_unused_parameters", "activation_checkpointing", "efficient_conv_bn_eval", "custom_imports",
    "tta_model", "tta_pipeline", "init_weights_for_test_or_val",
} - {"self", "cfg"}  # fmt: skip

# settings of the hosts' versions before mmengine, which it takes for variables of the file
OLD_SETTINGS = dict(
    optimizer="optim_wrapper=dict(optimizer=...)",
    optimizer_config="optim_wrapper=dict(clip_grad=...)",
    lr_config="param_scheduler",
    momentum_config="param_scheduler",
    runner="train_cfg",
    total_epochs="train_cfg=dict(max_epochs=...)",
    checkpoint_config="default_hooks=dict(checkpoint=...)",
    log_config="default_hooks=dict(logger=...)",
    evaluation="val_evaluator and train_cfg=dict(val_interval=...)",
    dist_params="env_cfg=dict(dist_cfg=...)",
    resume_from="resume and load_from",
    data="train_dataloader, val_dataloader and test_dataloader",
)


# keys of dicts without a type that the hosts' own configs have where nothing reads them
IDLE = {
    "debug",
    "allowed_border",
    "pos_weight",
    "assigner",
    "sampler",
    "filter_empty_gt",
    "bbox_min_size",
    "sub_data_root",
}


def place_in_model(key: str) -> Place:
    return next((place for pattern, place in IN_A_MODEL if pattern.fullmatch(key)), IN_MODEL)
