"""Run a detector in channels_last without the operators that misread such maps doing so."""

import torch
from torch import Tensor, nn


def _make_contiguous(module: nn.Module, inputs: tuple) -> tuple:
    return tuple(x.contiguous() if isinstance(x, Tensor) else x for x in inputs)


def to_channels_last(model: nn.Module) -> nn.Module:
    """Convert ``model`` to ``torch.channels_last`` in place and return it.

    mmcv's compiled operators (RoIAlign, deformable convolutions) read channels_last maps and weights as if they were
    contiguous: wrong numbers, no error. So every module from ``mmcv.ops`` keeps its weights contiguous, and its inputs
    are made so first.
    """
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # not in PyTorch's stub
    for module in model.modules():
        if not type(module).__module__.startswith("mmcv.ops"):
            continue
        for p in module.parameters():
            p.data = p.data.contiguous()
        if _make_contiguous not in module._forward_pre_hooks.values():
            module.register_forward_pre_hook(_make_contiguous)
    return model
