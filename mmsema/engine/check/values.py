"""Values that no run can go on with, or only to nothing: numbers out of bounds, halves of settings, unknown metrics."""

import logging
import multiprocessing
import re
from typing import Any, Callable, Iterator, List, Optional, Tuple

from mmengine.config import Config

from .registries import did_you_mean, find

PARTS = {
    "train": ("train_dataloader", "train_cfg", "optim_wrapper"),
    "val": ("val_dataloader", "val_cfg", "val_evaluator"),
    "test": ("test_dataloader", "test_cfg", "test_evaluator"),
}
LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
PACK = dict(mmdet="PackDetInputs", mmpretrain="PackInputs", mmseg="PackSegInputs")
# what metrics call their results, of those whose names depend on nothing but their settings
COCO_BOXES = ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l")
COCO_PROPOSALS = ("AR@100", "AR@300", "AR@1000", "AR_s@1000", "AR_m@1000", "AR_l@1000")


def _is(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kind if kind is int else (int, float)) and not isinstance(value, bool)


_whole, _number = _is(int), _is(float)


def _each(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """The same of a number and of all numbers of a list, whatever else is in it."""
    return lambda value: all(
        test(one) for one in (value if isinstance(value, (list, tuple)) else [value]) if _number(one)
    )


# place, what a value must pass, what it must be
RULES: List[Tuple[str, Callable[[Any], bool], str]] = [
    (r"\w+_dataloader\.batch_size", lambda v: not _whole(v) or v >= 1, "at least 1"),
    (
        r"train_cfg\.(max_epochs|max_iters|val_interval)",
        lambda v: _number(v) and v >= 1 and v % 1 == 0,
        "a whole number from 1",
    ),
    (r"optim_wrapper(\.\w+)?\.optimizer\.lr", lambda v: _number(v) and v >= 0, "a number from 0"),
    (r"optim_wrapper(\.\w+)?\.optimizer\.weight_decay", lambda v: _number(v) and v >= 0, "a number from 0"),
    (r"optim_wrapper(\.\w+)?\.accumulative_counts", lambda v: _whole(v) and v >= 1, "a whole number from 1"),
    (r"optim_wrapper(\.\w+)?\.clip_grad\.(max_norm|clip_value)", lambda v: _number(v) and v > 0, "a number above 0"),
    (r"default_hooks\.logger\.interval", lambda v: _whole(v) and v >= 1, "a whole number from 1"),
    (r"default_hooks\.checkpoint\.interval", lambda v: _whole(v) and v != 0, "a whole number from 1, -1 for none"),
    (r"param_scheduler(\[\d+\])?\.start_factor", lambda v: _number(v) and 0 < v <= 1, "above 0, 1 at most"),
    (
        r"randomness\.seed",
        lambda v: v is None or (_whole(v) and 0 <= v < 2**32),
        "a whole number from 0 to 4294967295, or None",
    ),
    (r"(model\.)?data_preprocessor\.std", _each(lambda v: v > 0), "numbers above 0"),
    (r"model\..*\banchor_generator\.(scales|ratios|strides)", _each(lambda v: v > 0), "numbers above 0"),
    (r"model\..*\bscore_thr", _each(lambda v: v < 1), "below 1, which is the highest score"),
    (r"model\..*\bnms\.iou_threshold", _each(lambda v: 0 < v <= 1), "above 0, 1 at most"),
    (r"\w+_dataloader\..*\bpipeline\[\d+\]\.prob", _each(lambda v: 0 <= v <= 1), "from 0 to 1"),
    (
        r"\w+_dataloader\..*\bpipeline\[\d+\]\.(scale|crop_size|scale_factor)",
        _each(lambda v: v > 0 or v == -1),
        "above 0",
    ),
    (r"work_dir", lambda v: v is None or isinstance(v, str), "a text"),
    (
        r"log_level",
        lambda v: _whole(v) or (isinstance(v, str) and _whole(logging.getLevelName(v))),
        "a level of logging, such as 'INFO'",
    ),
    (
        r"env_cfg\.mp_cfg\.mp_start_method",
        lambda v: v in multiprocessing.get_all_start_methods(),
        f"one of {', '.join(multiprocessing.get_all_start_methods())}",
    ),
]


def _leaves(value: Any, path: str) -> Iterator[Tuple[str, Any]]:
    """Everything in a config with its place; lists of plain values as a whole."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}")
    elif isinstance(value, (list, tuple)) and any(isinstance(item, dict) for item in value):
        for i, item in enumerate(value):
            yield from _leaves(item, f"{path}[{i}]")
    else:
        yield path, value


def _bounds(cfg: Config) -> Iterator[Tuple[str, str]]:
    rules = [(re.compile(pattern), test, text) for pattern, test, text in RULES]
    for key in cfg:
        for path, value in _leaves(cfg[key], key):
            for pattern, test, text in rules:
                if pattern.fullmatch(path) and not test(value):
                    yield path, f"must be {text}, got {value!r}"
    schedulers = cfg.get("param_scheduler") or []
    for i, one in enumerate(schedulers if isinstance(schedulers, (list, tuple)) else [schedulers]):
        begin, end = (one.get(key) for key in ("begin", "end")) if isinstance(one, dict) else (None, None)
        if _number(end) and end <= (begin or 0):
            yield f"param_scheduler[{i}].end", f"must be above begin, {begin or 0}, got {end}"


def missing_parts(cfg: Config) -> Iterator[Tuple[str, str]]:
    """A loader without its loop, or a loop without its loader: the runner, and it alone, wants all three or none."""
    for keys in PARTS.values():
        missing = [key for key in keys if cfg.get(key) is None]
        if missing and len(missing) < len(keys):
            there = " and ".join(key for key in keys if key not in missing)
            yield " and ".join(missing), f"missing, where {there} are given; give all of {', '.join(keys)}, or none"


def _full_name(kind: Any) -> str:
    """A class with its package; mmpose's CocoMetric is another one than mmdet's."""
    return f"{getattr(kind, '__module__', '').split('.')[0]}.{getattr(kind, '__name__', '')}"


def metric_names(evaluators: Any, scope: str) -> Optional[List[str]]:
    """What a config's evaluators call their results; None where a class of its own knows."""
    names: List[str] = []
    for one in evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]:
        kind = find(one.get("type"), ("METRICS",), scope) if isinstance(one, dict) else None
        if _full_name(kind) != "mmdet.CocoMetric" or one.get("classwise") or one.get("metric_items"):
            return None
        metrics = one.get("metric", "bbox")
        for metric in metrics if isinstance(metrics, (list, tuple)) else [metrics]:
            if metric not in ("bbox", "segm", "proposal"):
                return None
            items = COCO_PROPOSALS if metric == "proposal" else [f"{metric}_{item}" for item in COCO_BOXES]
            names += [f"{one.get('prefix') or 'coco'}/{item}" for item in items]
    return names


def _metrics(cfg: Config) -> Iterator[Tuple[str, str]]:
    """Names of metrics that the evaluator will not give, which hooks find out after the first epoch, or never."""
    if not isinstance(cfg.get("val_evaluator"), (dict, list, tuple)):
        return
    if str((cfg.get("val_cfg") or {}).get("type", "ValLoop")).split(".")[-1] != "ValLoop":
        return  # others give names of their own: mmdet's TeacherStudentValLoop puts the model's before them
    names = metric_names(cfg.val_evaluator, cfg.get("default_scope") or "mmengine")
    if names is None:
        return
    checkpoint = (cfg.get("default_hooks") or {}).get("checkpoint") or {}
    wanted = [("default_hooks.checkpoint.save_best", checkpoint.get("save_best"))]
    for i, hook in enumerate(cfg.get("custom_hooks") or []):
        if isinstance(hook, dict) and hook.get("type") == "EarlyStoppingHook":
            wanted.append((f"custom_hooks[{i}].monitor", hook.get("monitor")))
    for path, value in wanted:
        for name in value if isinstance(value, (list, tuple)) else [value]:
            if isinstance(name, str) and name not in ("auto", *names):
                hint = did_you_mean(name, names) or f"; it gives {', '.join(names)}"
                yield path, f"val_evaluator gives no {name!r}{hint}"


def _pipelines(cfg: Config) -> Iterator[Tuple[str, str]]:
    """Pipelines of the hosts' transforms that do not load, or do not pack, what the model takes."""
    scope = cfg.get("default_scope") or "mmengine"
    for loader in LOADERS:
        pipeline = ((cfg.get(loader) or {}).get("dataset") or {}).get("pipeline")
        if not isinstance(pipeline, (list, tuple)) or not all(isinstance(step, dict) for step in pipeline):
            continue
        kinds = [str(step.get("type")).split(".")[-1] for step in pipeline]
        here = f"{loader}.dataset.pipeline"
        if kinds and kinds[0] == "LoadAnnotations":
            yield here, "must load pictures first, with LoadImageFromFile, got LoadAnnotations"
        last = find(pipeline[-1].get("type"), ("TRANSFORMS",), scope) if kinds else None
        hosts = getattr(last, "__module__", "").split(".")[0] in ("mmcv", "mmdet", "mmpretrain", "mmseg")
        packs = any("Pack" in str(value) for path, value in _leaves(pipeline[-1:], "") if path.endswith(".type"))
        if hosts and not packs and "transforms" not in pipeline[-1]:
            yield here, f"must end with what packs it for the model, {PACK.get(scope, 'Pack...')}, got {kinds[-1]}"


def _masks(cfg: Config) -> Iterator[Tuple[str, str]]:
    """A model that learns masks from annotations without any."""
    model = cfg.get("model")
    head = model.get("roi_head") if isinstance(model, dict) else None
    if not isinstance(head, dict) or not head.get("mask_head"):
        return
    given = dict(_leaves(cfg.get("train_dataloader"), "train_dataloader"))
    for path, kind in given.items():
        step = path.removesuffix(".type")
        loads = step != path and step.endswith("]") and str(kind).split(".")[-1] == "LoadAnnotations"
        if loads and not given.get(f"{step}.with_mask"):
            yield f"{step}.with_mask", "must be True, as model.roi_head has a mask_head"


def check_values(cfg: Config) -> List[Tuple[str, str]]:
    """Place and text of every value with which a run would fail, or come to nothing."""
    return [*_bounds(cfg), *_metrics(cfg), *_masks(cfg), *_pipelines(cfg)]
