"""MILA's checkpoints under our names: exact for the MILA backbone, a warm start for SEMA."""

import re
from typing import Mapping, Optional

from .match import Source, StateDict, describe, find_state_dict
from .read import CheckpointError, read_checkpoint

_MILA_STEM = {"conv1": "conv1.", "conv2.0": "conv2.", "conv2.1": "conv2.", "conv3.0": "conv3.", "conv3.1": "conv3."}
_MILA_BLOCK = {
    "cpe1": "cpe1",
    "norm1": "norm1",
    "in_proj": "in_proj",
    "act_proj": "gate_proj",
    "dwc": "dwconv",
    "attn.qk": "mixer.qk_proj",
    "attn.lepe": "mixer.lepe",
    "out_proj": "out_proj",
    "cpe2": "cpe2",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def _rename_mila(name: str, last_stage: int) -> Optional[str]:
    """Our name of a tensor of MILA's backbone, "" for one that we have no use for, None for an unknown one."""
    module, _, kind = name.rpartition(".")
    if module == "head" or name.endswith("attn.rope.rotations"):
        return ""
    stem = re.fullmatch(r"patch_embed\.(conv1|conv[23]\.[01])\.(conv|norm)", module)
    if stem:
        layer = 3 * int(stem[1].endswith(".1")) + int(stem[2] == "norm")
        return f"stem.{_MILA_STEM[stem[1]]}{layer}.{kind}"
    down = re.fullmatch(r"layers\.(\d+)\.downsample\.conv\.([012])\.(conv|norm)", module)
    if down:
        return f"downsamples.{down[1]}.{2 * int(down[2]) + int(down[3] == 'norm')}.{kind}"
    block = re.fullmatch(r"layers\.(\d+)\.blocks\.(\d+)\.(.+)", module)
    if block and block[3] in _MILA_BLOCK:
        return f"stages.{block[1]}.{block[2]}.{_MILA_BLOCK[block[3]]}.{kind}"
    norm = re.fullmatch(r"norm(\d*)", module)
    if norm:
        return f"norm{norm[1] or last_stage}.{kind}"
    return None


def convert_mila(checkpoint: Source) -> StateDict:
    """The weights of a MILA checkpoint under the names of our backbones: exact for ``MILA``, a warm start for ``SEMA``.

    Args:
        checkpoint: file, URL, or what was read from one: classifier or detector, as the authors publish them.

    Raises:
        CheckpointError: it cannot be read, is not MILA's, or has a tensor in its backbone that no name is known for.
    """
    source = "checkpoint" if isinstance(checkpoint, Mapping) else str(checkpoint)
    state = find_state_dict(checkpoint if isinstance(checkpoint, Mapping) else read_checkpoint(checkpoint), source)
    if any(name.startswith("backbone.") for name in state):
        state = {name[len("backbone.") :]: tensor for name, tensor in state.items() if name.startswith("backbone.")}
    if not any("attn.qk.weight" in name for name in state):
        raise CheckpointError(f"{source} is not MILA's: it looks like {describe(state)}")
    last_stage = max(int(found[1]) for found in (re.match(r"layers\.(\d+)\.", name) for name in state) if found)
    renamed = {name: _rename_mila(name, last_stage) for name in state}
    unknown = [name for name, ours in renamed.items() if ours is None]
    if unknown:
        raise CheckpointError(f"{source}: no name is known for {len(unknown)} of its tensors, first {unknown[0]}")
    return {ours: state[name] for name, ours in renamed.items() if ours}
