"""Which checkpoint a run goes on from, and what keeps it safe while it trains."""

import math
import os
import re
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Tuple

from mmengine.config import Config, ConfigDict
from mmengine.hooks import CheckpointHook

from ..checkpoint import CheckpointError, read_checkpoint
from .check.registries import find
from .config import require_file
from .errors import UsageError
from .hooks.whole_checkpoints import INTERRUPTED

HOOKS = ("mmsema.ExactResume", "mmsema.CheckFinite", "mmsema.StopOnSignal")
LOADER_TIMEOUT = 300  # seconds in which a worker must give a batch


def check_resumable(path: str) -> None:
    """Raise :class:`CheckpointError` if a checkpoint is damaged or has weights only."""
    if os.path.isdir(path):  # shards of a model
        path = os.path.join(path, "rank0.pth")
    checkpoint = read_checkpoint(path)
    meta = checkpoint.get("meta")
    missing = [key for key in ("epoch", "iter") if not isinstance(meta, dict) or key not in meta]
    missing += [key for key in ("optimizer", "message_hub") if key not in checkpoint]
    if missing:
        raise CheckpointError(
            f"checkpoint {path} has no {', '.join(missing)}: training cannot be resumed from it; to start from its "
            f"weights leave --resume away and give --cfg-options load_from={path}"
        )


def _checkpoint_hook(cfg: Config) -> dict:
    return (cfg.get("default_hooks") or {}).get("checkpoint") or {}


def checkpoint_folder(cfg: Config) -> Path:
    """Where the checkpoint hook writes: the work folder, or one of its name in the hook's ``out_dir``."""
    out_dir = _checkpoint_hook(cfg).get("out_dir")
    return Path(out_dir) / Path(cfg.work_dir).name if out_dir else Path(cfg.work_dir)


def saved_checkpoints(cfg: Config) -> List[Path]:
    """What the checkpoint hook has written to go on from, newest first: by the number in the name.

    Those that the config names come first, as epochs and iterations cannot be compared. When files were written says
    little once they have been copied.
    """
    hook = _checkpoint_hook(cfg)
    usual = ["epoch_{}.pth", "iter_{}.pth"]
    templates = [hook.get("filename_tmpl") or usual[not hook.get("by_epoch", True)], *usual]
    patterns = [r"(\d+)".join(map(re.escape, re.split(r"\{.*?\}", name))) for name in templates]
    steps: Dict[Path, Tuple[float, int]] = {}
    for path in checkpoint_folder(cfg).glob("*"):
        if path.name == INTERRUPTED:  # the next regular one replaces it
            steps[path] = math.inf, 0
        for place, pattern in enumerate(patterns):
            found = re.fullmatch(pattern, path.name)
            if found:
                steps.setdefault(path, (-place, max(map(int, found.groups()), default=0)))
    return sorted(steps, key=steps.__getitem__, reverse=True)


def list_checkpoints(cfg: Config) -> List[str]:
    """What a work folder offers: what ``last_checkpoint`` names, then the others, newest first."""
    saved = saved_checkpoints(cfg)
    others = [path for path in checkpoint_folder(cfg).glob("*.pth") if not path.name.startswith("best_")]
    others.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    found = list(dict.fromkeys(map(str, saved + others)))
    pointer = Path(cfg.work_dir) / "last_checkpoint"
    named = pointer.read_text().strip() if pointer.is_file() else ""
    same = [path for path in found if named and os.path.realpath(path) == os.path.realpath(named)]
    if named and not same and os.path.exists(named):
        same = [named]
    if found and not same:
        what = f"names {named}, which" if named else "is empty or"
        say(f"{pointer} {what} is not there; the newest checkpoint is taken to be {found[0]}")
    return same + [path for path in found if path not in same]


def say(text: str) -> None:
    if os.environ.get("RANK", "0") == "0":
        print(f"warning: {text}", file=sys.stderr)


def find_resumable(cfg: Config) -> Optional[str]:
    """The newest checkpoint of the work folder that loads; None if it has none at all.

    Raises:
        UsageError: there are some, and none can be resumed from.
    """
    problems = []
    for path in list_checkpoints(cfg):
        try:
            check_resumable(path)
        except CheckpointError as error:
            say(str(error))
            problems.append(path)
            continue
        if problems:
            say(f"going on from {path}, the newest that loads")
        return path
    if problems:
        raise UsageError(f"none of {', '.join(problems)} can be resumed from; the warnings above say why")
    return None


def resume(cfg: Config, checkpoint: Optional[str]) -> None:
    """Set up a config for ``--resume``: ``latest`` and ``auto`` search its work folder, anything else is a file.

    Where there is nothing, ``latest`` is an error, and ``auto`` leaves the start to the config: a checkpoint to go on
    from (``load_from`` with ``resume=True``), weights (``load_from``), or none.
    """
    named = cfg.get("load_from")
    if checkpoint is None and cfg.get("resume"):
        checkpoint = named or "auto"
    if checkpoint is None:
        return
    if checkpoint in ("latest", "auto"):
        found = find_resumable(cfg)
        if found is not None:
            cfg.resume, cfg.load_from = True, found
            return
        if checkpoint == "latest":
            raise UsageError(
                f"nothing to resume in {cfg.work_dir}; to start from scratch leave --resume away, "
                "or say --resume auto, which does either"
            )
        nothing = f"Nothing to resume in {cfg.work_dir}: training"
        if not (named and cfg.get("resume")):
            print(f"{nothing} starts from " + (f"the weights in {named}" if named else "scratch"))
            cfg.resume = False
            return
        print(f"{nothing} goes on from {named}, as the config has it")
        checkpoint = named
    if not os.path.isdir(checkpoint):
        require_file(checkpoint, "--resume")
    check_resumable(checkpoint)
    cfg.resume, cfg.load_from = True, checkpoint


def limit_waiting(cfg: Config) -> None:
    """Let a worker that hangs be an error, not the end of all news."""
    for key in ("train_dataloader", "val_dataloader", "test_dataloader"):
        loader = cfg.get(key)
        if not isinstance(loader, dict):
            continue
        if loader.get("num_workers", 0) > 0:
            loader.setdefault("timeout", LOADER_TIMEOUT)
        else:  # an earlier run's config may have it; PyTorch refuses it without workers
            loader.pop("timeout", None)


def protect(cfg: Config) -> None:
    """Add to a config what keeps a long run safe: the hooks of docs/reliability.md, and a limit to waiting for data."""
    limit_waiting(cfg)
    hooks = cfg.setdefault("default_hooks", ConfigDict())
    checkpoint = hooks.setdefault("checkpoint", ConfigDict(type="CheckpointHook", interval=1))
    scope = cfg.get("default_scope") or "mmengine"

    def hook_class(name: Any) -> Optional[Callable]:
        return find(name, ("HOOKS",), scope)

    if checkpoint is not None and hook_class(checkpoint.get("type", "CheckpointHook")) is CheckpointHook:
        checkpoint.type = "mmsema.WholeCheckpointHook"
    custom = list(cfg.get("custom_hooks") or [])
    known = {hook_class(hook.get("type")) for hook in custom if isinstance(hook, dict)}
    cfg.custom_hooks = custom + [ConfigDict(type=name) for name in HOOKS if hook_class(name) not in known]
