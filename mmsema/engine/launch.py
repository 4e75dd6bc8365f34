"""Training and testing from a config, for mmdet, mmpretrain and mmseg alike."""

import argparse
import importlib
import pickle
import sys
import time
from functools import partial
from pathlib import Path
from typing import List

import torch
from mmengine.config import Config, ConfigDict
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import SyncBuffersHook
from mmengine.registry import RUNNERS
from mmengine.runner import Runner
from rich.progress import track

from ..audit import audit_config
from .check import missing_parts, problem_of_work_dir
from .check.registries import find
from .config import check_data, load_config, require_file
from .errors import ConfigFaults, UsageError
from .failure import REFUSALS, run_or_fail, what_happened
from .hooks import CheckWeights
from .quiet import is_news
from .resume import limit_waiting, protect, resume, saved_checkpoints


def import_formatter(patience: float = 5.0) -> None:
    """Import yapf, with which mmengine lays out the config for the log.

    The first import of a new version writes a cache for all later ones, not at once: where several processes begin
    together, some find it half written.
    """
    deadline = time.monotonic() + patience
    while True:
        try:
            importlib.import_module("yapf.yapflib.yapf_api")
            return
        except (EOFError, pickle.UnpicklingError) as error:
            if time.monotonic() > deadline:
                hint = "remove the folder YAPF from your cache folder (~/.cache on Linux)"
                raise UsageError(f"yapf, which lays out configs, has a damaged cache ({error}); {hint}") from error
            time.sleep(0.05)


def build_runner(cfg: Config, min_matched: float) -> Runner:
    """The config's runner; it refuses checkpoints with less than the share ``min_matched`` of the model's tensors.

    Raises:
        UsageError: something in the config cannot be built.
    """
    import_formatter()
    faults = [f"{path}: {text}" for path, text in missing_parts(cfg)]
    if faults:
        raise ConfigFaults(faults)
    try:
        return _build_runner(cfg, min_matched)
    except REFUSALS as error:
        raise UsageError(f"the config cannot be used: {what_happened(error)}") from error


def _build_runner(cfg: Config, min_matched: float) -> Runner:
    if cfg.get("default_scope") == "mmdet":
        from mmdet.utils import setup_cache_size_limit_of_dynamo

        setup_cache_size_limit_of_dynamo()
    if cfg.get("launcher") == "pytorch" and not torch.cuda.is_available():
        # mmengine's own start and wrapper ask for a GPU, whatever the backend
        torch.distributed.init_process_group("gloo")
        unused = cfg.get("find_unused_parameters", False)
        wrapper = dict(device_ids=None, broadcast_buffers=False, find_unused_parameters=unused)
        cfg.model_wrapper_cfg = ConfigDict({**wrapper, **(cfg.get("model_wrapper_cfg") or {})})
    if "runner_type" in cfg:
        return RUNNERS.build(cfg)  # its processes may hold shards of the model, which CheckWeights cannot compare
    runner = Runner.from_cfg(cfg)
    runner.logger.addFilter(is_news)
    runner.register_hook(CheckWeights(min_matched))
    if runner.distributed:  # processes have BatchNorm statistics of their own; one model is to be validated and saved
        runner.register_hook(SyncBuffersHook())
    return runner


def audit(runner: Runner, loaders: List[str]) -> None:
    """Check the data in process 0, log what is dropped, and have all processes stop together when it is unfit.

    It comes after the runner, whose processes can talk, and before it reads any data.
    """
    stops = [""]
    if is_main_process():
        progress = partial(track, transient=True, disable=not sys.stdout.isatty())
        reports = audit_config(runner.cfg, loaders, pictures="quick", progress=progress)
        for line in dict.fromkeys(line for report in reports for line in report.lines()):
            if line.startswith(("drop", "not audited")):
                runner.logger.warning(line)
        # training and validation may be on the same files
        stops = ["\nerror: ".join(dict.fromkeys(line for report in reports for line in report.stops))]
    broadcast_object_list(stops)
    if stops[0]:
        raise UsageError(stops[0] if is_main_process() else "process 0 found the data unfit for use")


def train(arguments: argparse.Namespace) -> None:
    """What tools/train.py does, with its parsed arguments."""
    cfg = load_config(arguments)
    if arguments.amp:
        if not torch.cuda.is_available():
            raise UsageError("--amp needs a CUDA device and there is none; train in float32 by leaving it away")
        cfg.optim_wrapper.type = "AmpOptimWrapper"
        cfg.optim_wrapper.setdefault("loss_scale", "dynamic")
    if arguments.auto_scale_lr:
        if "base_batch_size" not in (cfg.get("auto_scale_lr") or {}):
            raise UsageError("--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=...) in the config")
        cfg.auto_scale_lr.enable = True
    problem = problem_of_work_dir(cfg.work_dir, saved_checkpoints(cfg), bool(arguments.resume or cfg.get("resume")))
    if problem:
        raise UsageError(problem)
    check_data(cfg, ["train_dataloader", "val_dataloader"])
    resume(cfg, arguments.resume)
    protect(cfg)
    runner = build_runner(cfg, min_matched=1.0 if cfg.get("resume") else 0.5)
    if arguments.audit:
        audit(runner, ["train_dataloader", "val_dataloader"])
    run_or_fail(runner, runner.train)


def show(cfg: Config, folder: str, labels: str) -> None:
    """Have the host's visualization hook write pictures with the predictions to a folder."""
    hook = (cfg.get("default_hooks") or {}).get("visualization") or {}
    found = find(hook.get("type"), ("HOOKS",), cfg.get("default_scope") or "mmengine")
    hosts = {base.__module__.split(".")[0] for base in getattr(found, "__mro__", ())}
    if "mmdet" in hosts:
        from ..visualization import readable

        hook.update(draw=True, test_out_dir=folder)
        cfg.visualizer = readable(cfg, labels)
    elif "mmseg" in hosts:
        hook.update(draw=True, interval=1)
        cfg.visualizer.save_dir = folder
    elif "mmpretrain" in hosts:
        hook.update(enable=True, out_dir=folder)
    else:
        raise UsageError(
            "--show-dir needs a visualization hook of mmdet, mmpretrain or mmseg in the config's "
            f"default_hooks.visualization, got {hook.get('type')}"
        )


def dump(cfg: Config, path: str) -> None:
    """Have the evaluator write the predictions to a pickle file."""
    if not path.endswith((".pkl", ".pickle")):
        raise UsageError(f"--out must end in .pkl or .pickle, got {path}")
    if Path(path).is_dir():
        raise UsageError(f"--out {path} is a folder")
    metric = "DumpDetResults" if cfg.get("default_scope") == "mmdet" else "mmengine.DumpResults"
    evaluator = cfg.test_evaluator
    if isinstance(evaluator, dict) and "metrics" in evaluator:  # a whole evaluator
        holder, key = evaluator, "metrics"
    else:
        holder, key = cfg, "test_evaluator"
    metrics = holder[key] if isinstance(holder[key], (list, tuple)) else [holder[key]]
    holder[key] = [*metrics, dict(type=metric, out_file_path=path)]


def test(arguments: argparse.Namespace) -> None:
    """What tools/test.py does, with its parsed arguments."""
    cfg = load_config(arguments)
    require_file(arguments.checkpoint, "checkpoint")
    check_data(cfg, ["test_dataloader"])
    limit_waiting(cfg)
    cfg.resume, cfg.load_from = False, arguments.checkpoint
    if arguments.show_dir:
        show(cfg, arguments.show_dir, arguments.labels)
    if arguments.out:
        dump(cfg, arguments.out)
    runner = build_runner(cfg, min_matched=1.0)
    if arguments.audit:
        audit(runner, ["test_dataloader"])
    run_or_fail(runner, runner.test)
