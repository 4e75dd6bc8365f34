"""Training and testing from a config, for mmdet, mmpretrain and mmseg alike."""

import argparse
import difflib
from pathlib import Path
from typing import List, Optional

import torch
from mmengine.config import Config, ConfigDict, DictAction
from mmengine.hooks import SyncBuffersHook
from mmengine.registry import RUNNERS
from mmengine.runner import Runner, find_latest_checkpoint

from .check_weights import CheckWeights, read_safely

# what to do when a data set's folder (by its name) is not there
DATA_HELP = {
    "coco": "get train2017.zip, val2017.zip and annotations_trainval2017.zip from cocodataset.org and unpack them "
    "there; without COCO, run: python tools/train.py configs/mask-rcnn_sema-pico_fpn_shapes.py",
    "imagenet": "get ImageNet-1k from image-net.org and put its class folders into train/ and val/ there; "
    "without ImageNet, run: python tools/train.py configs/sema-pico_digits.py",
    "ADEChallengeData2016": "get ADEChallengeData2016.zip from sceneparsing.csail.mit.edu and unpack it in data/ade; "
    "docs/segmentation.md shows the layout",
    "shapes": "make it with: python tools/make_shapes.py data/shapes",
}


class UsageError(Exception):
    """Something the caller can mend; its text is one line for the person at the terminal."""


def load_config(arguments: argparse.Namespace) -> Config:
    """Read the config file, merge --cfg-options, choose the work folder, and fit it to the machine."""
    path = Path(arguments.config)
    if not path.is_file():
        siblings = [str(p) for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        near = difflib.get_close_matches(str(path), siblings, n=3)
        raise UsageError(f"config {path} is not a file" + (f"; did you mean {' or '.join(near)}?" if near else ""))
    if path.suffix != ".py":
        raise UsageError(f"config must be a .py file, got {path}")
    cfg = Config.fromfile(str(path))
    cfg.launcher = arguments.launcher
    if arguments.work_dir is not None:
        cfg.work_dir = arguments.work_dir
    elif cfg.get("work_dir") is None:
        cfg.work_dir = str(Path("work_dirs") / path.stem)
    if cfg.get("default_scope", "mmdet") == "mmpretrain":
        # mmpretrain's models take stacked images; mmdet's take lists, which is mmengine's default
        for key in ("train_dataloader", "val_dataloader", "test_dataloader"):
            if cfg.get(key):
                cfg[key] = ConfigDict({"collate_fn": dict(type="default_collate"), **cfg[key]})
    parser = argparse.ArgumentParser()
    parser.add_argument("--cfg-options", nargs="*", action=DictAction)
    options = [option for option in arguments.cfg_options if "=" not in option]
    if options:
        raise UsageError(f"--cfg-options takes KEY=VALUE, got {options[0]!r}")
    cfg.merge_from_dict(parser.parse_args(["--cfg-options", *arguments.cfg_options]).cfg_options or {})
    return cfg


def check_data(cfg: Config, loaders: List[str]) -> None:
    """Raise :class:`UsageError` when a local file or folder that a data set names is not there."""
    for loader in loaders:
        dataset = (cfg.get(loader) or {}).get("dataset", {})
        while "dataset" in dataset:  # wrappers such as RepeatDataset
            dataset = dataset["dataset"]
        root = dataset.get("data_root") or ""
        names = [dataset.get("ann_file") or "", *(dataset.get("data_prefix") or {}).values()]
        for path in (Path(root) / name for name in names if root or name):
            if "://" not in str(root) and not path.exists():
                help_text = DATA_HELP.get(Path(root).name, "set data_root, ann_file and data_prefix in the config")
                folder = root or path.parent
                raise UsageError(f"{path} is missing, the data is expected in {folder}; {help_text}")


def require_file(path: str, what: str) -> None:
    if "://" not in path and not Path(path).is_file():
        raise UsageError(f"{what} {path} is not a file")


def build_runner(cfg: Config, min_matched: float) -> Runner:
    """The config's runner; it refuses checkpoints with less than the share ``min_matched`` of the model's tensors."""
    if cfg.get("default_scope") == "mmdet":
        from mmdet.utils import setup_cache_size_limit_of_dynamo

        setup_cache_size_limit_of_dynamo()
    read_safely()
    if cfg.get("launcher") == "pytorch" and not torch.cuda.is_available():
        # mmengine's own start and wrapper ask for a GPU, whatever the backend
        torch.distributed.init_process_group("gloo")
        wrapper = dict(device_ids=None, broadcast_buffers=False, find_unused_parameters=False)
        cfg.model_wrapper_cfg = ConfigDict({**wrapper, **(cfg.get("model_wrapper_cfg") or {})})
    if "runner_type" in cfg:
        return RUNNERS.build(cfg)  # its processes may hold shards of the model, which CheckWeights cannot compare
    runner = Runner.from_cfg(cfg)
    runner.register_hook(CheckWeights(min_matched))
    if runner.distributed:  # processes have BatchNorm statistics of their own; one model is to be validated and saved
        runner.register_hook(SyncBuffersHook())
    return runner


def _resume(cfg: Config, checkpoint: Optional[str]) -> None:
    if checkpoint is None:
        return
    cfg.resume = True
    if checkpoint == "auto":
        cfg.load_from = None
        if find_latest_checkpoint(cfg.work_dir) is None:
            print(f"Nothing to resume in {cfg.work_dir}: training starts from scratch")
    else:
        require_file(checkpoint, "--resume")
        cfg.load_from = checkpoint


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
    check_data(cfg, ["train_dataloader", "val_dataloader"])
    _resume(cfg, arguments.resume)
    build_runner(cfg, min_matched=1.0 if cfg.get("resume") else 0.5).train()


def test(arguments: argparse.Namespace) -> None:
    """What tools/test.py does, with its parsed arguments."""
    cfg = load_config(arguments)
    require_file(arguments.checkpoint, "checkpoint")
    check_data(cfg, ["test_dataloader"])
    cfg.load_from = arguments.checkpoint
    if arguments.show_dir:
        hook, scope = cfg.default_hooks.visualization, cfg.get("default_scope")
        if scope == "mmdet":
            hook.update(draw=True, test_out_dir=arguments.show_dir)
        elif scope == "mmseg":
            hook.update(draw=True, interval=1)
            cfg.visualizer.save_dir = arguments.show_dir
        else:
            hook.update(enable=True, out_dir=arguments.show_dir)
    if arguments.out:
        if not arguments.out.endswith((".pkl", ".pickle")):
            raise UsageError(f"--out must end in .pkl or .pickle, got {arguments.out}")
        metric = "DumpDetResults" if cfg.get("default_scope") == "mmdet" else "mmengine.DumpResults"
        evaluators = cfg.test_evaluator if isinstance(cfg.test_evaluator, (list, tuple)) else [cfg.test_evaluator]
        cfg.test_evaluator = [*evaluators, dict(type=metric, out_file_path=arguments.out)]
    build_runner(cfg, min_matched=1.0).test()
