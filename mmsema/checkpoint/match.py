"""Match a checkpoint's tensors with a model's and load them loudly: nothing is loaded by half, nothing in silence.

``backbone=dict(type='mmsema.SEMA', init_cfg=dict(type='Pretrained', checkpoint=...))`` comes here, too.
"""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Dict, Iterable, List, Mapping, Optional, Sequence, Tuple, Union

from mmengine.logging import print_log
from mmengine.model.weight_init import PretrainedInit
from torch import Tensor, nn

from ..models.names import plain_name
from ..models.sema import ARCHITECTURES
from ..registry import WEIGHT_INITIALIZERS
from .read import CheckpointError, read_checkpoint

StateDict = Dict[str, Tensor]
Source = Union[str, Path, Mapping]


# a tensor's name that gives its network away
_FOREIGN = {
    "attn.qk.weight": "MILA; convert it first with tools/model_converters/convert_mila.py",
    "relative_position_bias_table": "a Swin Transformer",
    "A_logs": "VMamba",
    "cls_token": "a ViT",
    "layer1.0.conv1.weight": "a ResNet",
    "depthwise_conv.weight": "a ConvNeXt",
}


@dataclass
class LoadReport:
    """What became of the tensors: the model's that were loaded or not, and the file's that were not used, by name."""

    source: str
    loaded: List[str]
    missing: List[str]
    ignored: List[str]

    def __str__(self) -> str:
        text = f"loaded {len(self.loaded)} of {len(self.loaded) + len(self.missing)} tensors from {self.source}"
        if self.missing:
            text += f"; not in the checkpoint, left as they were: {summary(self.missing)}"
        if self.ignored:
            text += f"; ignored because the model has none: {summary(self.ignored)}"
        return text


def summary(names: Iterable[str], most: int = 6) -> str:
    """Tensor names by the module they are in: ``neck (16), norm0 (2)``."""
    counts = Counter(
        ".".join(name.split(".")[:2]) if name.startswith("backbone.") else name.split(".")[0] for name in names
    )
    parts = [f"{module} ({count})" for module, count in counts.items()]
    return ", ".join(parts[:most]) + (f" and {len(parts) - most} more" if len(parts) > most else "")


def find_state_dict(checkpoint: Mapping, source: str = "checkpoint") -> StateDict:
    """The tensors of a checkpoint: they stand under ``state_dict``, under ``model`` or at the top.

    What wrappers add to names, ``module.`` and ``_orig_mod.`` among others, is removed.
    """
    state = checkpoint
    for key in ("state_dict", "model"):
        if isinstance(checkpoint.get(key), Mapping):
            state = checkpoint[key]
            break
    tensors = {name: value for name, value in state.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if not tensors:
        keys = ", ".join(map(str, list(checkpoint)[:5])) or "none"
        raise CheckpointError(f"{source} holds no tensors under state_dict, model or at the top; its keys: {keys}")
    return {plain_name(name): tensor for name, tensor in tensors.items()}


def _architecture(state: StateDict) -> Optional[Tuple[int, Tuple[int, ...]]]:
    """Width and blocks per stage, if these are the tensors of a SEMA or MILA backbone."""
    blocks, width = Counter(), None
    for name, tensor in state.items():
        block = re.fullmatch(r"(?:backbone\.)?stages\.(\d+)\.\d+\.cpe1\.weight", name)
        if block:
            blocks[int(block[1])] += 1
        elif re.fullmatch(r"(?:backbone\.)?stem\.conv1\.0\.weight", name):
            width = 2 * tensor.shape[0]
    if width is None or not blocks:
        return None
    return width, tuple(blocks[stage] for stage in range(max(blocks) + 1))


def describe(state: StateDict) -> str:
    """What the tensors look like, by their names."""
    architecture = _architecture(state)
    if architecture:
        width, depths = architecture
        for name, arch in ARCHITECTURES.items():
            if arch["embed_dims"] == width and arch["depths"][: len(depths)] == depths:
                return f"SEMA or MILA {name!r}"
        return f"SEMA or MILA with embed_dims={width}, depths={depths}"
    for part, network in _FOREIGN.items():
        if any(part in name for name in state):
            return network
    return "something else: its first tensors are " + ", ".join(list(state)[:3])


def _align(state: StateDict, names: Iterable[str]) -> StateDict:
    """Remove or add ``backbone.``, whichever makes most names agree with the model's."""
    names = set(names)
    prefix = "backbone."
    without = {
        (name[len(prefix) :] if name.startswith(prefix) else f"<outside>.{name}"): t for name, t in state.items()
    }
    candidates = (state, without, {prefix + name: tensor for name, tensor in state.items()})
    return max(candidates, key=lambda candidate: len(names & set(candidate)))


def match_weights(
    target: StateDict, checkpoint: Mapping, source: str = "checkpoint", min_matched: float = 0.5
) -> Tuple[StateDict, LoadReport]:
    """Choose the tensors of ``checkpoint`` that belong into ``target``, a model's state dict; nothing is changed.

    Raises:
        CheckpointError: another architecture, another shape, numbers that are not finite, or less than the share
            ``min_matched`` of the model's tensors in the checkpoint.
    """
    found = find_state_dict(checkpoint, source)
    names = {plain_name(name): name for name in target}
    state = {names.get(name, name): tensor for name, tensor in _align(found, names).items()}
    chosen = {name: tensor for name, tensor in state.items() if name in target}
    share, total = len(chosen) / len(target), len(target)
    plain = {name: target[names[name]] for name in names}
    here, there = _architecture(found), _architecture(plain)
    if here and there and (here[0] != there[0] or any(a != b for a, b in zip(here[1], there[1], strict=False))):
        raise CheckpointError(
            f"{source} looks like {describe(found)}, the model is {describe(plain)}; nothing was loaded"
        )
    if not chosen or share < min_matched:
        raise CheckpointError(
            f"{source} has {len(chosen)} of the model's {total} tensors, at least {min_matched:.0%} are needed; "
            f"it looks like {describe(found)}; nothing was loaded"
        )
    wrong = [name for name, tensor in chosen.items() if tensor.shape != target[name].shape]
    if wrong:
        first = wrong[0]
        raise CheckpointError(
            f"{source}: {len(wrong)} of {len(chosen)} tensors have another shape, first {first}: "
            f"{tuple(state[first].shape)} in the checkpoint, {tuple(target[first].shape)} in the model; nothing was "
            f"loaded; to train with other classes, leave the head out with "
            f"tools/model_converters/publish_model.py --drop {_modules(wrong)}"
        )
    broken = [name for name, tensor in chosen.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if broken:
        raise CheckpointError(
            f"{source}: NaN or infinity in {len(broken)} tensors, first {broken[0]}; nothing was loaded"
        )
    missing = [name for name in target if name not in chosen]
    ignored = [name.replace("<outside>.", "") for name in state if name not in target]
    return chosen, LoadReport(source, list(chosen), missing, ignored)


def _modules(names: Sequence[str]) -> str:
    """The modules that hold the tensors ``names``, most useful as arguments: ``roi_head.bbox_head.fc_cls ...``."""
    return " ".join(dict.fromkeys(name.rpartition(".")[0] for name in names))


def load_weights(model: nn.Module, checkpoint: Source, min_matched: float = 0.5, prefix: str = "") -> LoadReport:
    """Load a checkpoint into ``model``, a backbone or a whole detector or classifier, and log a report.

    Args:
        model: where the weights go; unchanged when anything is wrong.
        checkpoint: file, URL, or what was read from one.
        min_matched: share of the model's tensors that the checkpoint must have.
        prefix: take only the tensors of the module of this name (and cut it off), with or without a dot at its end; by
            default ``backbone.`` is removed or added as needed.

    Raises:
        CheckpointError: see :func:`read_checkpoint` and :func:`match_weights`.
    """
    source = "checkpoint" if isinstance(checkpoint, Mapping) else str(checkpoint)
    if not isinstance(checkpoint, Mapping):
        checkpoint = read_checkpoint(checkpoint)
    if prefix:
        prefix = prefix.rstrip(".") + "."
        state = find_state_dict(checkpoint, source)
        checkpoint = {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}
        if not checkpoint:
            raise CheckpointError(
                f"{source} has no tensor whose name starts with {prefix!r}; it looks like {describe(state)}"
            )
    target = model.state_dict()
    chosen, report = match_weights(target, checkpoint, source, min_matched)
    if any(tensor.is_meta for tensor in target.values()):
        raise CheckpointError(
            f"the model is on the meta device, which holds no numbers: call model.to_empty(device=...) before {source} "
            "is loaded into it"
        )
    model.load_state_dict(chosen, strict=False)
    print_log(str(report), logger="current")
    return report


@WEIGHT_INITIALIZERS.register_module(name="Pretrained")
class LoudPretrainedInit(PretrainedInit):
    """``init_cfg=dict(type='Pretrained', checkpoint=...)`` of our backbones, which raises when little matches.

    ``type='mmsema.Pretrained'`` does the same for any other module.
    """

    def __call__(self, module: nn.Module) -> None:
        load_weights(module, self.checkpoint, prefix=self.prefix or "")
