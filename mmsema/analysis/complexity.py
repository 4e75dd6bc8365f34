"""Count a model's parameters and what it computes for one picture, attention and mean included.

The count is that of the operator's definition, whichever backend runs later: ``torch.utils.flop_counter`` sees the
reference's matrix products as it sees those of any other layer.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from math import prod
from typing import Dict, List, Optional, Sequence, Tuple

import torch
from mmengine.structures import InstanceData
from mmsema_kernels import use_backend
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..apis import PathLike, load_model
from ..engine import UsageError

PRODUCT = torch.ops.aten.bmm  # in a mixer: the attention's; its projection is addmm
MEAN = torch.ops.aten.mean
Counts = Dict[str, Dict[object, int]]  # module's name -> operation -> how many additions and multiplications


@dataclass
class Part:
    """A part of a model and what one picture costs there.

    ``macs`` are multiply-accumulates: those of convolutions, linear layers and matrix products, and half a one for each
    number that a mean adds up. Norms, activations, softmax, RoPE, resizing and NMS do not count, as usual.
    """

    name: str
    macs: float
    parameters: Optional[int] = None


@dataclass
class Complexity:
    """The whole, its parts, the backbone's attention and mean, and the regions that a second stage looked at."""

    input_shape: Tuple[int, ...]
    total: Part
    parts: List[Part]
    attention: Part
    mean: Part
    regions: int


def _count_mean(shape: Sequence[int], *_, **__) -> int:
    return prod(shape)


def _propose(model: nn.Module) -> int:
    """Have a two-stage detector's RPN return as many boxes as the config allows; random weights give any number."""
    count = model.test_cfg.rpn.max_per_img
    predict = model.rpn_head.predict

    def predict_all(x: Sequence[Tensor], samples: list, rescale: bool) -> List[InstanceData]:
        predict(x, samples, rescale=rescale)
        height, width = samples[0].img_shape
        corners = torch.rand(count, 2, 2) * torch.tensor([width, height])
        return [InstanceData(bboxes=torch.cat([corners.amin(1), corners.amax(1)], dim=1))]

    model.rpn_head.predict = predict_all
    return count


def _run_detector(model: nn.Module, H: int, W: int, counter: FlopCounterMode) -> Tuple[Tuple[int, ...], int]:
    from mmdet.structures import DetDataSample

    sample = DetDataSample(metainfo=dict(img_shape=(H, W), ori_shape=(H, W), scale_factor=(1.0, 1.0)))
    picture = torch.randint(0, 256, (3, H, W), dtype=torch.uint8)
    data = model.data_preprocessor(dict(inputs=[picture], data_samples=[sample]), False)
    two_stages = getattr(model, "rpn_head", None) is not None and model.test_cfg.rpn is not None
    regions = _propose(model) if two_stages else 0
    with counter:
        model(**data, mode="tensor")
    return tuple(data["inputs"].shape), regions


def _cost(counts: Counts, module: nn.Module, name: str) -> int:
    """Of a module; where its forward did not run through hooks, of the modules in it."""
    if name in counts:
        return sum(counts[name].values())
    return sum(_cost(counts, child, f"{name}.{key}") for key, child in module.named_children())


def count_operations(config: PathLike, shape: Optional[Tuple[int, int]] = None) -> Complexity:
    """Build a config's model with random weights and count what one picture costs.

    Args:
        config: path of a config, or name of one that mmsema ships.
        shape: height and width of the picture; by default 224 x 224 for a classifier, 800 x 1333 for a detector, which
            pads it as its config says.

    Raises:
        UsageError: there is no such config, or torch is too old to count.
    """
    if find_spec("torch.utils.module_tracker") is None:  # without it the counter cannot follow a neck's tuples of maps
        raise UsageError(f"counting needs a torch with torch.utils.module_tracker, torch {torch.__version__} has none")
    from torch.nn.attention import SDPBackend, sdpa_kernel

    loaded = load_model(config, device="cpu")
    model, root = loaded.model, type(loaded.model).__name__
    detector = hasattr(loaded, "dataset")
    H, W = shape or ((800, 1333) if detector else (224, 224))
    counter, regions = FlopCounterMode(display=False, custom_mapping={MEAN: _count_mean}), 0
    torch.manual_seed(0)
    # the counter knows products, not every kernel of scaled_dot_product_attention
    with torch.no_grad(), use_backend("reference"), sdpa_kernel(SDPBackend.MATH):
        if detector:
            input_shape, regions = _run_detector(model, H, W, counter)
        else:
            input_shape = (1, 3, H, W)
            with counter:
                model(torch.zeros(input_shape), mode="tensor")
    counts = counter.get_flop_counts()
    mixers = [ops for name, ops in counts.items() if name.endswith(".mixer")]
    parts = [
        Part(name, _cost(counts, child, f"{root}.{name}") / 2, sum(p.numel() for p in child.parameters()))
        for name, child in model.named_children()
        if name != "data_preprocessor"
    ]
    return Complexity(
        input_shape,
        Part("total", counter.get_total_flops() / 2, sum(p.numel() for p in model.parameters())),
        parts,
        Part("attention", sum(ops.get(PRODUCT, 0) for ops in mixers) / 2),
        Part("mean", sum(ops.get(MEAN, 0) for ops in mixers) / 2),
        regions,
    )
