"""Reading configs: files, names of those that mmsema ships, and what the command line changes."""

import argparse
import difflib
import os
from pathlib import Path
from typing import List, Sequence, Union

from mmengine.config import Config, ConfigDict

from ..audit.run import is_remote
from ..hub import data_folder
from .check import check_config, do_imports, merge_options, read
from .check.registries import find
from .check.signature import arguments_of
from .errors import UsageError
from .quiet import import_datasets

PathLike = Union[str, Path]

# what to do when a data set's folder (by its name) is not there
DATA_HELP = {
    "coco": "get train2017.zip, val2017.zip and annotations_trainval2017.zip from cocodataset.org and unpack them "
    "there; without COCO, run: python tools/train.py configs/mask-rcnn_sema-pico_fpn_shapes.py",
    "imagenet": "get ImageNet-1k from image-net.org and put its class folders into train/ and val/ there; "
    "without ImageNet, run: python tools/train.py configs/sema-pico_digits.py",
    "ADEChallengeData2016": "get ADEChallengeData2016.zip from sceneparsing.csail.mit.edu and unpack it in data/ade; "
    "docs/segmentation.md shows the layout",
    "nuclei": "docs/datasets.md says how to get and convert the nuclei of the 2018 Data Science Bowl",
    "cifar10": "docs/datasets.md says how to get CIFAR-10 as folders of pictures",
    "rsscn7": "docs/datasets.md says how to get and split RSSCN7",
    "shapes": "make it with: python tools/make_shapes.py data/shapes",
}
# the variable that the processes of a launcher have, and what starts them
LAUNCHERS = {
    "pytorch": ("RANK", "tools/dist_train.sh or torchrun"),
    "slurm": ("SLURM_PROCID", "srun (tools/slurm_train.sh)"),
    "mpi": ("OMPI_COMM_WORLD_RANK", "mpirun"),
}


def require_file(path: str, what: str) -> None:
    if "://" not in path and not Path(path).is_file():
        raise UsageError(f"{what} {path} is not a file")


def read_config(config: PathLike, options: Sequence[str] = ()) -> Config:
    """The config of that path, or of that name among those mmsema ships (``sema-t_8xb128_in1k``), checked.

    Args:
        config: path or name.
        options: ``KEY=VALUE`` texts that change it.

    Raises:
        UsageError: one line for everything that is wrong with it.
    """
    cfg = _read(config)
    _merge_and_check(cfg, options)
    return cfg


def _merge_and_check(cfg: Config, options: Sequence[str]) -> None:
    faults = merge_options(cfg, options)
    faults = do_imports(cfg) + faults
    import_datasets(cfg.get("default_scope"))
    check_config(cfg, faults)


def _read(config: PathLike) -> Config:
    """A config that need not be right, its imports not done yet."""
    path = Path(config)
    if not path.suffix and not path.exists() and path.parent == Path("."):
        shipped = {file.stem: file for file in sorted((data_folder() / "configs").glob("*.py"))}
        if str(config) not in shipped:
            near = difflib.get_close_matches(str(config), shipped, n=3)
            hint = f"did you mean {' or '.join(near)}?" if near else f"the names are {', '.join(shipped)}"
            raise UsageError(f"config {config} is neither a .py file nor the name of a config of mmsema; {hint}")
        path = shipped[str(config)]
    return read(path)


def load_config(arguments: argparse.Namespace) -> Config:
    """Read the config file, merge --cfg-options, choose the work folder, fit it to the machine, and check it."""
    if arguments.launcher in LAUNCHERS:
        variable, starter = LAUNCHERS[arguments.launcher]
        if variable not in os.environ:
            raise UsageError(f"--launcher {arguments.launcher} is for processes that {starter} starts, this one is not")
    cfg = _read(arguments.config)
    cfg.launcher = arguments.launcher
    if arguments.work_dir is not None:
        cfg.work_dir = arguments.work_dir
    elif cfg.get("work_dir") is None:
        cfg.work_dir = str(Path("work_dirs") / Path(arguments.config).stem)
    if cfg.get("default_scope", "mmdet") == "mmpretrain":
        # mmpretrain's models take stacked images; mmdet's take lists, which is mmengine's default
        for key in ("train_dataloader", "val_dataloader", "test_dataloader"):
            if cfg.get(key):
                cfg[key] = ConfigDict({"collate_fn": dict(type="default_collate"), **cfg[key]})
    _merge_and_check(cfg, arguments.cfg_options)
    return cfg


def _downloads(dataset: dict, scope: str) -> bool:
    """Whether a data set gets its own files where they are missing, as mmpretrain's CIFAR10 and MNIST do."""
    target = find(dataset.get("type"), ["DATASETS"], scope)
    argument = arguments_of(target).named.get("download") if target is not None else None
    return argument is not None and bool(dataset.get("download", argument.default))


def check_data(cfg: Config, loaders: List[str]) -> None:
    """Raise :class:`UsageError` when a local file or folder that a data set names is not there."""
    for loader in loaders:
        dataset = (cfg.get(loader) or {}).get("dataset", {})
        while "dataset" in dataset:  # wrappers such as RepeatDataset
            dataset = dataset["dataset"]
        if is_remote(dataset) or _downloads(dataset, cfg.get("default_scope") or "mmengine"):
            continue
        root, prefix = dataset.get("data_root") or "", dataset.get("data_prefix") or ""
        names = [dataset.get("ann_file") or "", *([prefix] if isinstance(prefix, str) else prefix.values())]
        for path in (Path(root) / name for name in names if root or name):
            if not path.exists():
                help_text = DATA_HELP.get(Path(root).name, "set data_root, ann_file and data_prefix in the config")
                folder = root or path.parent
                raise UsageError(f"{path} is missing, the data is expected in {folder}; {help_text}")
