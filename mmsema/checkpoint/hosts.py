"""Have mmengine, and with it every host, read checkpoints as we do: no code in them is run, wherever it is hidden.

``import mmsema`` installs it for the whole process; docs/security.md says what that covers.
"""

import os
from typing import Callable, Optional, Union

from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader

from .read import CheckpointError, read_checkpoint


def _find_url(name: str) -> str:
    """The file or URL that one of mmengine's model names stands for, such as ``torchvision://resnet50``."""
    scheme, _, model = name.partition("://")
    if scheme in ("torchvision", "modelzoo"):
        known = mmengine_checkpoint.get_torchvision_models()
    elif scheme in ("open-mmlab", "openmmlab"):
        known = mmengine_checkpoint.get_external_models()
        model = mmengine_checkpoint.get_deprecated_model_names().get(model, model)
    elif scheme == "mmcls":
        known = mmengine_checkpoint.get_mmcls_models()
    else:
        return name
    if model not in known:
        raise CheckpointError(f"checkpoint {name} is not among the {len(known)} names that mmengine knows for {scheme}")
    return known[model]


def drop_code(checkpoint: dict, folder: str) -> dict:
    """Remove, in place, what a host would execute or obey: texts of configs, and files to delete elsewhere.

    Args:
        checkpoint: as read; whatever is not where mmengine puts it is left alone.
        folder: where the checkpoint lies; the best checkpoint, which mmengine deletes for a better one, must, too.
    """
    meta = checkpoint.get("meta")
    if isinstance(meta, dict):
        for key in ("config", "cfg"):  # Runner.resume runs the first, inferencers without a config the second
            meta.pop(key, None)
    hub = checkpoint.get("message_hub")
    info = hub.get("runtime_info") if isinstance(hub, dict) else None
    if isinstance(info, dict):
        info.pop("cfg", None)  # run by inferencers without a config
        steps = info.get("keep_ckpt_ids", [])
        if not isinstance(steps, list) or any(type(step) is not int for step in steps):
            info.pop("keep_ckpt_ids")
        for key in [key for key in info if str(key).startswith("best_ckpt")]:
            best, name = str(info[key]), os.path.basename(str(info[key]))
            inside = os.path.realpath(os.path.dirname(best)) == os.path.realpath(folder)
            if not (inside and name.startswith("best_") and name.endswith(".pth")):
                info.pop(key)
    return checkpoint


def load_from_mmsema(filename: str, map_location: Optional[Union[str, Callable]] = None) -> dict:
    """What mmengine's CheckpointLoader calls; on the CPU always, ``load_state_dict`` moves what it takes."""
    found = _find_url(filename)
    checkpoint = drop_code(read_checkpoint(found), os.path.dirname(os.path.expanduser(found)))
    if filename.startswith("mmcls://"):  # a classifier, of which the backbone is wanted
        checkpoint = mmengine_checkpoint._process_mmcls_checkpoint(checkpoint)
    return checkpoint


def read_safely() -> None:
    """Let mmengine read every checkpoint of this process with :func:`mmsema.checkpoint.read_checkpoint`."""
    CheckpointLoader.register_scheme(prefixes=list(CheckpointLoader._schemes), loader=load_from_mmsema, force=True)
