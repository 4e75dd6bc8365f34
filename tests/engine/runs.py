"""Small trainings in processes of their own, which faults are planted into; the hosts' pipelines, models and loops."""

import importlib
import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Callable, Dict, Optional

import numpy as np
import torch
from mmcv.transforms import TRANSFORMS, BaseTransform
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.registry import METRICS
from mmengine.runner import Runner

from mmsema.checkpoint import CheckpointError
from mmsema.datasets.shapes import make_shapes
from mmsema.engine import RunFailed, UsageError
from mmsema.engine.failure import run_or_fail
from mmsema.engine.launch import build_runner
from mmsema.engine.resume import protect, resume

for host in ("mmdet", "mmpretrain"):  # once, not in every process that is forked from this one
    for room in ("datasets", "engine", "evaluation", "models", "visualization"):
        importlib.import_module(f"{host}.{room}")

ROOT = Path(__file__).resolve().parents[2]
SMALL = dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1))
BATCHES = 4  # of an epoch
EPOCHS = 3


@TRANSFORMS.register_module()
class DrawFromAll(BaseTransform):
    """Brightness from every generator that a pipeline may use."""

    def transform(self, results: dict) -> dict:
        factor = 0.7 + 0.2 * random.random() + 0.2 * np.random.rand() + 0.2 * float(torch.rand(()))
        results["img"] = np.clip(results["img"] * factor, 0, 255).astype(np.uint8)
        return results


@METRICS.register_module()
class Counting(BaseMetric):
    """Is better every time."""

    count = 0

    def process(self, data_batch, data_samples) -> None:
        self.results.append(1)

    def compute_metrics(self, results: list) -> dict:
        Counting.count += 1
        return dict(count=float(Counting.count))


class Losses(Hook):
    """Appends every iteration's loss, all of its bits, to a file."""

    priority = "HIGHEST"

    def __init__(self, path: Path) -> None:
        self.path = path

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        with open(self.path, "a") as file:
            file.write(json.dumps([runner.iter, float(outputs["loss"]).hex()]) + "\n")


class At(Hook):
    """Calls something at one moment of the first run: a hook's method, and the iterations done."""

    def __init__(self, moment: str, iteration: int, action: Callable, priority: str = "LOWEST") -> None:
        self.iteration, self.action, self.priority = iteration, action, priority
        setattr(self, moment, self.act)

    def act(self, runner, *args, **kwargs) -> None:
        if runner.train_loop._iter == self.iteration:
            self.action(runner)


def kill(runner=None) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def workers(kind: str) -> dict:
    """``0``, ``2``, or ``2p`` for persistent ones."""
    return dict(num_workers=int(kind[0]), persistent_workers=kind.endswith("p"))


def _finish(cfg: Config, folder: Path, loaders: str) -> Config:
    cfg.work_dir, cfg.experiment_name = str(folder), folder.name
    cfg.train_dataloader.update(workers(loaders))
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    cfg.test_dataloader = cfg.test_cfg = cfg.test_evaluator = None
    cfg.param_scheduler = [
        dict(type="LinearLR", start_factor=0.1, by_epoch=False, end=4),
        dict(type="CosineAnnealingLR", by_epoch=False, T_max=12, end=12),
    ]
    return cfg


def digits(folder: Path, loaders: str = "0") -> Config:
    """mmpretrain: dropped paths, crops, mixed pictures."""
    cfg = Config.fromfile(str(ROOT / "configs/sema-pico_digits.py"))
    cfg.model.backbone.update(arch=SMALL, drop_path_rate=0.3)
    cfg.model.head.in_channels = 64
    cfg.model.train_cfg = dict(augments=dict(type="Mixup", alpha=0.8))
    cfg.model.head.loss = dict(type="LabelSmoothLoss", label_smooth_val=0.1, mode="original")
    loader = cfg.train_dataloader
    loader.update(batch_size=4, num_batch_per_epoch=BATCHES, collate_fn=dict(type="default_collate"))
    loader.dataset.pipeline.insert(1, dict(type="mmengine.DrawFromAll"))
    cfg.train_cfg = dict(by_epoch=True, max_epochs=EPOCHS)
    cfg.default_hooks.checkpoint = dict(type="CheckpointHook", interval=1, max_keep_ckpts=1)
    return _finish(cfg, folder, loaders)


def digits_by_iteration(folder: Path, loaders: str = "0", sampler: str = "InfiniteSampler") -> Config:
    cfg = digits(folder, loaders)
    cfg.train_cfg = dict(by_epoch=False, max_iters=BATCHES * EPOCHS)
    cfg.train_dataloader.sampler = dict(type=sampler, shuffle=True)
    cfg.default_hooks.checkpoint = dict(type="CheckpointHook", by_epoch=False, interval=3, max_keep_ckpts=1)
    return cfg


def shapes(folder: Path, loaders: str = "0") -> Config:
    """mmdet: a Mask R-CNN with sampled boxes on flipped pictures, batched by aspect ratio."""
    root = folder.parent / "shapes"
    if not root.exists():
        make_shapes(root, dict(train=8))
    cfg = Config.fromfile(str(ROOT / "configs/mask-rcnn_sema-pico_fpn_shapes.py"))
    cfg.model.backbone.update(arch=SMALL, drop_path_rate=0.3)
    cfg.model.neck.in_channels = [8, 16, 32, 64]
    loader = cfg.train_dataloader
    loader.update(batch_size=2, batch_sampler=dict(type="mmdet.AspectRatioBatchSampler"))
    loader.dataset.data_root = f"{root}/"
    loader.dataset.pipeline[2].scale = (64, 64)
    loader.dataset.pipeline.insert(3, dict(type="mmengine.DrawFromAll"))
    cfg.train_cfg = dict(by_epoch=True, max_epochs=EPOCHS)
    cfg.default_hooks.checkpoint = dict(type="CheckpointHook", interval=1, max_keep_ckpts=1)
    return _finish(cfg, folder, loaders)


def train(cfg: Config, hook: Optional[Hook] = None, go_on: Optional[str] = None) -> None:
    """What tools/train.py does with a config, here, without the parts of mmengine that only take time."""
    Config.pretty_text = ""
    Runner._log_env = lambda *_: None
    torch.set_num_threads(1)
    resume(cfg, go_on)
    protect(cfg)
    runner = build_runner(cfg, min_matched=1.0)
    runner.register_hook(Losses(Path(cfg.work_dir) / "losses.jsonl"))
    if hook is not None:
        runner.register_hook(hook)
    run_or_fail(runner, runner.train)


def fork(cfg: Config, hook: Optional[Hook] = None, go_on: Optional[str] = None) -> int:
    """:func:`train` in a process that is forked from this one, its output in ``<work_dir>/output``; returns its id."""
    folder = Path(cfg.work_dir)
    folder.mkdir(parents=True, exist_ok=True)
    pid = os.fork()
    if pid:
        return pid
    code = 70  # as tools/common.py
    try:
        os.setsid()
        output = os.open(folder / "output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", 1), os.fdopen(2, "w", 1)
        train(cfg, hook, go_on)
        code = 0
    except (UsageError, CheckpointError) as error:
        print(f"error: {error}")
        code = 2
    except RunFailed as error:
        print(f"error: {error}")
        code = 1
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def wait(pid: int, seconds: float = 120) -> int:
    """The exit code of a process, negative for the signal that killed it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise TimeoutError(f"process {pid} did not end within {seconds} seconds")


def run(cfg: Config, hook: Optional[Hook] = None, go_on: Optional[str] = None, code: int = 0) -> str:
    """:func:`train` in a process of its own; returns what it printed."""
    found = wait(fork(cfg, hook, go_on))
    output = (Path(cfg.work_dir) / "output").read_text()
    assert found == code, f"exit code {found}\n{output[-4000:]}"
    return output


def losses(folder: Path) -> Dict[int, str]:
    """The loss of every iteration; those that were done twice must have had the same."""
    found: Dict[int, str] = {}
    for line in (folder / "losses.jsonl").read_text().splitlines():
        iteration, loss = json.loads(line)
        assert found.setdefault(iteration, loss) == loss, f"iteration {iteration} was repeated with another loss"
    return found


def largest_difference(a: Dict[int, str], b: Dict[int, str]) -> float:
    assert a.keys() == b.keys()
    return max(abs(float.fromhex(a[key]) - float.fromhex(b[key])) for key in a)
