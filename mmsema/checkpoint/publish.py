"""Write weights that torch.load(..., weights_only=True) reads, named by their hash."""

import hashlib
import io
import os
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence, Union

import mmengine
import numpy as np
import torch

from ..version import __version__
from .match import StateDict, find_state_dict, summary
from .read import CheckpointError, read_checkpoint


def save_weights(
    state: StateDict, path: Union[str, Path], meta: Optional[dict] = None, hash_name: bool = False
) -> Path:
    """Write tensors so that ``torch.load(..., weights_only=True)`` reads them; returns the path written.

    Args:
        state: the tensors.
        path: where to; ends in ``.pth``.
        meta: plain data to keep beside them.
        hash_name: put ``-<first 8 hex digits of the file's SHA-256>`` before ``.pth``, as torch.hub and mim check it.

    Raises:
        ValueError: ``path`` ends otherwise.
        CheckpointError: its folder cannot be made.
    """
    path = Path(path)
    if path.suffix != ".pth":
        raise ValueError(f"path must end in .pth, got {path}")
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in state.items()
    }
    meta = dict(meta or {}, mmsema_version=__version__, mmengine_version=mmengine.__version__)
    buffer = io.BytesIO()
    torch.save({"state_dict": tensors, "meta": meta}, buffer)
    content = buffer.getvalue()
    if hash_name:
        path = path.with_name(f"{path.stem}-{hashlib.sha256(content).hexdigest()[:8]}.pth")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error.strerror}: {error.filename}") from None
    partial = path.with_suffix(".partial")
    partial.write_bytes(content)
    os.replace(partial, path)
    return path


def _plain(value: Any) -> Any:
    """NumPy's arrays and numbers as lists and numbers, which ``weights_only=True`` reads."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_plain, value))
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def publish_model(
    checkpoint: Union[str, Path], out: Union[str, Path], drop: Sequence[str] = (), half: bool = False
) -> Path:
    """Strip a training checkpoint to its weights (the averaged ones after training with EMA), named by their hash.

    Args:
        checkpoint: file to read.
        out: where to; ``<name>.pth`` is written as ``<name>-<hash>.pth``.
        drop: leave out tensors whose names start with one of these, a classification head for instance.
        half: store in float16, which models in float32 load as they load float32; whether the score stays is to be
            measured.

    Raises:
        CheckpointError: the checkpoint cannot be read, a name in ``drop`` is not in it, or a number in it is too large
            for float16.
    """
    read = read_checkpoint(checkpoint)
    state = find_state_dict(read, str(checkpoint))
    for prefix in drop:
        if not any(name.startswith(prefix) for name in state):
            raise CheckpointError(
                f"{checkpoint} has no tensor whose name starts with {prefix!r}; it has {summary(state)}"
            )
    kept = {name: tensor for name, tensor in state.items() if not name.startswith(tuple(drop))}
    if half:
        for name, tensor in kept.items():
            if tensor.is_floating_point():
                kept[name] = tensor.half()
                if tensor.isfinite().all() and not kept[name].isfinite().all():
                    raise CheckpointError(f"{checkpoint}: {name} has {tensor.abs().max():.4g}, too large for float16")
    dataset_meta = (read.get("meta") or {}).get("dataset_meta") or {}
    return save_weights(kept, out, {"dataset_meta": _plain(dataset_meta)}, hash_name=True)
