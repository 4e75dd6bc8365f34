"""Training and testing from a config, for mmdet, mmpretrain and mmseg alike."""

import argparse
import sys
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
from .config import check_data, load_config, require_file
from .errors import ConfigFaults, UsageError
from .failure import REFUSALS, run_or_fail, what_happened
from .hooks import CheckWeights
from .quiet import is_news
from .resume import limit_waiting, protect, resume, saved_checkpoints


def build_runner(cfg: Config, min_matched: float) -> Runner:
    """The config's runner; it refuses checkpoints with less than the share ``min_matched`` of the model's tensors.

    Raises:
        UsageError: something in the config cannot be built.
    """
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
        wrapper = dict(device_ids=None, broadcast_buffers=False, find_unused_parameters=False)
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
        if "base_batch_size" not in cfg.get("auto_scale_lr", {}):
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


def test(arguments: argparse.Namespace) -> None:
    """What tools/test.py does, with its parsed arguments."""
    cfg = load_config(arguments)
    require_file(arguments.checkpoint, "checkpoint")
    check_data(cfg, ["test_dataloader"])
    limit_waiting(cfg)
    cfg.load_from = arguments.checkpoint
    if arguments.show_dir:
        hook, scope = cfg.default_hooks.visualization, cfg.get("default_scope")
        if scope == "mmdet":
            from ..visualization import readable

            hook.update(draw=True, test_out_dir=arguments.show_dir)
            cfg.visualizer = readable(cfg, arguments.labels)
        elif scope == "mmseg":
            hook.update(draw=True, interval=1)
            cfg.visualizer.save_dir = arguments.show_dir
        else:
            hook.update(enable=True, out_dir=arguments.show_dir)
    if arguments.out:
        if not arguments.out.endswith((".pkl", ".pickle")):
            raise UsageError(f"--out must end in .pkl or .pickle, got {arguments.out}")
        if Path(arguments.out).is_dir():
            raise UsageError(f"--out {arguments.out} is a folder")
        metric = "DumpDetResults" if cfg.get("default_scope") == "mmdet" else "mmengine.DumpResults"
        evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, (list, tuple)) else [cfg.test_evaluator]
        cfg.test_evaluator = [*evaluators, dict(type=metric, out_file_path=arguments.out)]
    runner = build_runner(cfg, min_matched=1.0)
    if arguments.audit:
        audit(runner, ["test_dataloader"])
    run_or_fail(runner, runner.test)
