"""The number of classes in every head of a model against the classes of the data."""

import json
from pathlib import Path
from typing import Any, Iterator, List, Optional, Tuple

from mmengine.config import Config
from mmengine.fileio import list_from_file

from .channels import each, models_in
from .registries import find

HEADS = ("bbox_head", "mask_head", "mask_iou_head", "decode_head", "auxiliary_head", "head")
QUICK = 20 * 2**20  # bytes of an annotation file that is read for a hint


def datasets_in(loader: Any) -> Iterator[dict]:
    """The data sets of a loader, out of their wrappers."""
    value = loader.get("dataset") if isinstance(loader, dict) and "type" not in loader else loader
    for one in value if isinstance(value, (list, tuple)) else [value]:
        if not isinstance(one, dict):
            continue
        inner = one.get("dataset", one.get("datasets"))
        if inner is None:
            yield one
        else:
            for item in inner if isinstance(inner, (list, tuple)) else [inner]:
                yield from datasets_in(item) if isinstance(item, dict) else ()


def classes_of(dataset: dict, scope: str) -> Optional[Tuple[int, str]]:
    """How many classes a data set's config gives it, and where that is written; None if only its files know.

    Of a panoptic data set it is the things: box and mask heads know nothing of the stuff.
    """
    target = find(dataset.get("type"), ("DATASETS",), dataset.get("_scope_") or scope)
    own, given = getattr(target, "METAINFO", None) or {}, dataset.get("metainfo") or {}
    key = "thing_classes" if "thing_classes" in own else "classes"
    if "classes" in given and key not in given:
        return None
    for classes in (given.get(key), dataset.get(key)):
        if isinstance(classes, str) and Path(classes).is_file():
            return len(list_from_file(classes)), classes
        if isinstance(classes, (list, tuple)) and classes:
            return len(classes), "metainfo"
    classes = own.get(key)
    if isinstance(classes, (list, tuple)) and classes:
        return len(classes), target.__name__
    return None


def annotated_classes(dataset: dict) -> str:
    """What a COCO annotation file, if it is there and small, says of its categories, for a hint."""
    name = dataset.get("ann_file")
    path = Path(dataset.get("data_root") or "", name) if isinstance(name, str) else Path()
    if path.suffix != ".json" or not path.is_file() or path.stat().st_size > QUICK:
        return ""
    try:
        names = [category["name"] for category in json.loads(path.read_text())["categories"]]
    except (ValueError, KeyError, TypeError):
        return ""  # the data check says what is wrong with it
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"; {path} has {len(names)} categories: {shown}"


def check_classes(cfg: Config) -> List[Tuple[str, str]]:
    """Place and text of every ``num_classes`` that is not the number of classes of the data.

    A detector's must be that number; other heads may have more, for weights that were trained with more.
    """
    scope = cfg.get("default_scope") or "mmengine"
    model = cfg.get("model") or {}
    if "tracker" in model:
        return []  # it has a head of one class on a data set of many, and one that tells persons apart
    found = {}
    for key in ("train_dataloader", "val_dataloader", "test_dataloader"):
        for dataset in datasets_in(cfg.get(key)):
            counted = classes_of(dataset, scope)
            if counted is None:
                return []
            found.setdefault(counted[0], (counted[1], key, dataset))
    if len(found) != 1:
        return []
    ((count, (source, loader, dataset)),) = found.items()
    faults = []
    exact = scope == "mmdet" and "language_model" not in model  # as mmdet's NumClassCheckHook has it
    for path, head in heads_in(model, cfg.get("data_preprocessor")):
        declared = head.get("num_classes")
        if declared == 2 and "auxiliary_head" in path:
            continue  # edges, as STDC learns them beside the classes
        if isinstance(declared, int) and (declared != count if exact else 1 < declared < count):
            text = f"must be {count}, the classes of {loader} (by {source}), got {declared}"
            faults.append((f"{path}.num_classes", text + (annotated_classes(dataset) if source != "metainfo" else "")))
    return faults


def heads_in(model: Any, data_preprocessor: Any) -> Iterator[Tuple[str, dict]]:
    for path, one in models_in(model):
        for key in HEADS:
            yield from each(one.get(key), f"{path}.{key}")
        roi_head = one.get("roi_head")
        for key in HEADS if isinstance(roi_head, dict) else ():
            yield from each(roi_head.get(key), f"{path}.roi_head.{key}")
    yield from each(data_preprocessor, "data_preprocessor")
