"""Audits of all data sets that a config names."""

import hashlib
import os
from collections import defaultdict
from functools import partial
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, Union

from mmengine.config import Config
from mmengine.registry import DATASETS, init_default_scope

from . import remember
from .coco import audit_coco, compare_pictures
from .folders import audit_folders
from .pairs import audit_pairs
from .pictures import Progress, quiet
from .report import Report

LOADERS = ("train_dataloader", "val_dataloader", "test_dataloader")
Job = Union[partial, Report]  # an audit but for its ``pictures`` and ``progress``; a report where there is none
SAMPLE = 4096  # bytes from the middle of a file, the first that are compared


def leaves(dataset: dict) -> Iterator[dict]:
    """The data sets inside RepeatDataset, ClassBalancedDataset, MultiImageMixDataset and ConcatDataset."""
    if "dataset" in dataset:
        yield from leaves(dataset["dataset"])
    elif "datasets" in dataset:
        for inner in dataset["datasets"]:
            yield from leaves(inner)
    else:
        yield dataset


def _steps(pipeline: Any) -> Iterator[dict]:
    """Every transform of a pipeline, those inside RandomChoice and the like too."""
    if isinstance(pipeline, dict):
        yield pipeline
        pipeline = list(pipeline.values())
    if isinstance(pipeline, (list, tuple)):
        for step in pipeline:
            yield from _steps(step)


def is_remote(leaf: dict) -> bool:
    """Whether a data set, or a transform of its pipeline, reads from a store that is no local disk."""
    given = [step.get(key) for step in _steps(leaf) for key in ("backend_args", "file_client_args")]
    backends = [one.get("backend") for one in given if isinstance(one, dict)]
    names = f"{leaf.get('data_root')}{leaf.get('ann_file')}{leaf.get('data_prefix')}"
    return "://" in names or any(backend not in (None, "local", "disk") for backend in backends)


def _reading(pipeline: Any) -> Tuple[bool, bool, bool, str]:
    """masks, poly2mask, exif and decoder as the audits take them, from a pipeline's loading transforms."""
    masks, poly2mask, exif = False, True, True
    decoder = "" if pipeline else "cv2"
    for step in _steps(pipeline):
        kind = str(step.get("type", "")).rsplit(".", 1)[-1]
        if kind.startswith("LoadAnnotations"):
            masks, poly2mask = masks or bool(step.get("with_mask")), step.get("poly2mask", True)
        elif kind.startswith("LoadImageFromFile"):
            flags = step.get("color_type", "color") in ("color", "grayscale")
            decoder = step.get("imdecode_backend") or "cv2"
            exif = flags and decoder != "turbojpeg"
    return masks, poly2mask, exif, decoder


def _use(cfg: Config, loader: str) -> Tuple[str, bool]:
    """What a loader's set is for, and whether its masks are compared."""
    if loader == "train_dataloader":
        return "train", False
    evaluators = cfg.get(loader.replace("dataloader", "evaluator")) or []
    evaluators = evaluators if isinstance(evaluators, (list, tuple)) else [evaluators]
    evaluators = [evaluator for evaluator in evaluators if not evaluator.get("format_only")]
    metrics = [str(evaluator.get("metric", "")) for evaluator in evaluators]
    return "evaluate" if evaluators else "predict", any("segm" in metric for metric in metrics)


def _unaudited(leaf: dict, use: str, reason: str) -> Report:
    report = Report(str(leaf.get("type")), use)
    report.not_audited = reason
    return report


def plan(leaf: dict, use: str, masks: bool, alone: bool) -> Optional[Job]:
    """What audits one data set of a config; None for a set that mmsema generates in memory.

    Args:
        leaf: the data set's settings.
        use, alone: as in :func:`mmsema.audit.audit_coco`.
        masks: an evaluator compares masks.
    """
    kind = leaf.get("type")
    with DATASETS.switch_scope_and_registry(None) as registry:
        cls = registry.get(kind) if isinstance(kind, str) else kind
        if cls is None:
            return _unaudited(leaf, use, "its type is not registered")
        reader = getattr(getattr(cls, "load_data_list", None), "__qualname__", "")
        parser = getattr(getattr(cls, "parse_data_info", None), "__qualname__", "")
        if cls.__module__.startswith("mmsema."):
            return None
        known = reader in ("CustomDataset.load_data_list", "BaseSegDataset.load_data_list")
        detection = ("CocoDataset.load_data_list", "LVISV1Dataset.load_data_list")
        if not known and (reader not in detection or parser != "CocoDataset.parse_data_info"):
            return _unaudited(leaf, use, "it reads a form of data that the audit does not know")
        if is_remote(leaf):
            return _unaudited(leaf, use, "it is not on a local disk")
        try:  # for the host's own defaults and joined paths; nothing is read but lists of classes
            dataset = registry.build({**leaf, "pipeline": [], "lazy_init": True})
        except Exception as error:  # whatever the host raises about its settings, it will say so itself
            return _unaudited(leaf, use, f"it cannot be built: {' '.join(str(error).split())[:200]}")
    with_mask, poly2mask, exif, decoder = _reading(leaf.get("pipeline"))
    classes = dataset.metainfo.get("classes")
    same = dict(use=use, exif=exif, decoder=decoder)
    prefix = dataset.data_prefix
    if reader == "CustomDataset.load_data_list":
        return partial(
            audit_folders,
            root=dataset.img_prefix,
            ann_file=dataset.ann_file,
            classes=classes,
            with_label=dataset.with_label,
            extensions=sorted(dataset.extensions),  # mmpretrain's order is another one in each process
            **same,
        )
    if reader == "BaseSegDataset.load_data_list":
        known_classes = classes if dataset.label_map is None else type(dataset).METAINFO["classes"]
        return partial(
            audit_pairs,
            img_dir=prefix.get("img_path", ""),
            map_dir=prefix.get("seg_map_path"),
            num_classes=len(known_classes) if known_classes else None,
            ann_file=dataset.ann_file,
            img_suffix=dataset.img_suffix,
            map_suffix=dataset.seg_map_suffix,
            reduce_zero_label=dataset.reduce_zero_label,
            ignore_index=dataset.ignore_index,
            **same,
        )
    lvis = reader == "LVISV1Dataset.load_data_list"
    filters = (dataset.filter_cfg or {}) if not dataset.test_mode else {}
    return partial(
        audit_coco,
        ann_file=dataset.ann_file,
        img_root=prefix.get("img", ""),
        classes=None if lvis else classes,  # LVIS' labels follow the file's ids, not names
        masks=masks or with_mask,
        poly2mask=poly2mask,
        filter_empty_gt=filters.get("filter_empty_gt", False),
        min_size=filters.get("min_size", 0),
        lvis=lvis,
        alone=alone,
        **same,
    )


def _key(job: partial) -> tuple:
    """All that a set's audit depends on but files: what the config and the host's classes come to."""
    return os.getcwd(), job.func.__name__, sorted(job.keywords.items())


def _look(job: Optional[Job], pictures: str, progress: Progress) -> Optional[Report]:
    """A set's report; what was found fit before and has not changed is not looked at again."""
    if not isinstance(job, partial):
        return job
    settings = repr(_key(job))
    report = remember.recall(settings, pictures)
    if report is None:
        report = job(pictures=pictures, progress=progress)
        remember.store(settings, pictures, report)
    return report


def _compare_folders(reports: List[Report]) -> None:
    """A misspelt class folder in one set moves the labels of all after it, against those of the others."""
    sets = [report for report in reports if report.class_folders]
    for report in sets[1:]:
        missing = sorted(set(sets[0].class_folders) - set(report.class_folders))
        extra = sorted(set(report.class_folders) - set(sets[0].class_folders))
        for what, names in (("not here", missing), ("only here", extra)):
            report.add_rows("folder-names", range(len(names)), lambda i, n=names: repr(n[i]), lambda i, w=what: w)


def _digest(path: str, size: int = -1) -> bytes:
    with open(path, "rb") as file:
        if size >= 0:
            file.seek(max(0, os.fstat(file.fileno()).st_size - size) // 2)
        return hashlib.blake2b(file.read(size)).digest()


def same_pictures(train: Sequence[str], other: Sequence[str], progress: Progress = quiet) -> List[Tuple[str, str]]:
    """Pairs of a path of ``other`` and one of ``train`` with the same bytes."""
    by_size: Dict[int, List[str]] = defaultdict(list)
    for path in train:
        by_size[os.path.getsize(path)].append(path)
    candidates = [path for path in other if os.path.getsize(path) in by_size]
    samples: Dict[Tuple[int, bytes], List[str]] = defaultdict(list)
    sizes = sorted({os.path.getsize(path) for path in candidates})
    for size in progress(sizes, "Comparing pictures"):
        for path in by_size[size]:
            samples[size, _digest(path, SAMPLE)].append(path)
    found = []
    for path in candidates:
        for twin in samples.get((os.path.getsize(path), _digest(path, SAMPLE)), ()):
            if _digest(path) == _digest(twin):
                found.append((path, twin))
                break
    return found


def _compare_pictures(audited: Sequence[Tuple[partial, Report]], pictures: str, progress: Progress) -> Report:
    """Pictures that are in a training set and in another. Remembered on its own."""
    settings = repr(("picture-in-both", [_key(job) for job, _ in audited]))
    known = remember.recall(settings, pictures)
    if known is None:
        known = Report("comparison", "train")
        fresh = [r if r.paths is not None else job(pictures=pictures, progress=progress) for job, r in audited]
        train = [path for report in fresh if report.use == "train" for path in report.paths or ()]
        for report in fresh:
            known.states.update(report.states)
            if report.use != "train":
                for path, twin in same_pictures(train, report.paths or (), progress):
                    known.add("picture-in-both", repr(path), twin)
        remember.store(settings, pictures, known)
    return known


def _evaluated(cfg: Config, loader: str, jobs: Sequence[Optional[Job]]) -> Iterator[Tuple[str, str]]:
    """The annotation files of a loader's only set and of its evaluators, where they are two and COCO's."""
    evaluators = cfg.get(loader.replace("dataloader", "evaluator")) or []
    files = [one.get("ann_file") for one in (evaluators if isinstance(evaluators, (list, tuple)) else [evaluators])]
    is_coco = [isinstance(job, partial) and job.func is audit_coco for job in jobs]
    if loader == "train_dataloader" or is_coco != [True]:
        return
    ann_file = jobs[0].keywords["ann_file"]
    for evaluated in (file for file in files if isinstance(file, str) and "://" not in file):
        if os.path.realpath(evaluated) != os.path.realpath(ann_file):
            yield ann_file, evaluated


def audit_config(
    cfg: Config,
    loaders: Sequence[str] = LOADERS,
    pictures: str = "all",
    compare: bool = False,
    progress: Progress = quiet,
) -> List[Report]:
    """Audit each data set of ``loaders`` once; what was found fit before and has not changed is not looked at again.

    Args:
        cfg: a config; its ``custom_imports`` have run.
        pictures: "quick", "all" or "decode"; see :func:`mmsema.audit.audit_coco`.
        compare: also look for pictures that are in the training set and in another.
        progress: ``rich.progress.track`` or alike.
    """
    init_default_scope(cfg.get("default_scope") or "mmengine")
    found: Dict[str, Tuple[Optional[Job], Optional[Report]]] = {}
    together: List[Report] = []
    evaluated: List[Tuple[str, str]] = []
    for loader in loaders:
        settings = cfg.get(loader)
        dataset = settings.get("dataset") if isinstance(settings, dict) else None
        sets = list(leaves(dataset)) if isinstance(dataset, dict) else []
        use, masks = _use(cfg, loader)
        own = []
        for leaf in sets:
            leaf = leaf.to_dict() if hasattr(leaf, "to_dict") else dict(leaf)
            name = repr((leaf, use, masks, len(sets) == 1))
            if name not in found:
                job = plan(leaf, use, masks, alone=len(sets) == 1)
                found[name] = job, _look(job, pictures, progress)
            own.append(found[name])
        if own and all(report is not None and "set-unlabelled" in report.counts for _, report in own):
            together.append(Report(loader, use))
            sources = ", ".join(report.source for _, report in own)
            together[-1].add("set-empty", f"0 annotations in {len(own)} sets", sources)
        evaluated += _evaluated(cfg, loader, [job for job, _ in own])
    reports = [report for _, report in found.values() if report is not None]
    _compare_folders(reports)
    audited = [(job, report) for job, report in found.values() if isinstance(job, partial)]
    if compare and {"train"} < {report.use for _, report in audited} and not any(r.stops for r in reports):
        reports.append(_compare_pictures(audited, pictures, progress))
    # nothing of these is remembered, as they are rare
    return reports + together + [compare_pictures(*files) for files in dict.fromkeys(evaluated)]
