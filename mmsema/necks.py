"""mmdet's FPN for the maps of padded batches. It imports mmdet, so configs name it in their custom_imports."""

from typing import Any, Callable, List, Optional, Tuple

from mmdet.models.necks import FPN
from mmsema_kernels import zero_outside
from torch import Tensor, nn

from .models.padding import find_sizes, halve
from .registry import MODELS


@MODELS.register_module()
class PaddedFPN(FPN):
    """mmdet's FPN, with the same arguments and parameters, that gives each picture of a padded batch its maps alone.

    FPN's biases and norms make numbers out of the zeros that the maps of SEMA and MILA hold outside the pictures, and
    its 3x3 convolutions carry them over the pictures' edges. Here these convolutions read and return 0 there. Where a
    picture ends is seen in the maps that come in: what follows at the bottom and on the right is 0 in all channels.

    Raises:
        ValueError: ``norm_cfg`` is GroupNorm or InstanceNorm, or ``upsample_cfg`` another mode than "nearest": these
            mix what is inside a picture with what is outside.
    """

    def forward(self, inputs: Tuple[Tensor, ...]) -> tuple:
        self._check()
        sizes = [find_sizes(x, 0.0) for x in inputs[self.start_level : self.backbone_end_level]]
        levels = len(sizes)
        convs = []
        for i, conv in enumerate(self.fpn_convs):
            before = sizes[min(i, len(sizes) - 1)]
            if i >= levels:  # an extra one, of stride 2
                sizes.append(halve(before))
            convs.append(_alone(conv, before, sizes[i]))
        # FPN's own forward, which calls the convolutions by their number; nothing of a call stays in the module
        return FPN.forward(_WithConvolutions(self, convs), inputs)

    def _check(self) -> None:
        mode = self.upsample_cfg.get("mode", "nearest")
        if mode != "nearest":
            raise ValueError(f"upsample_cfg['mode'] must be 'nearest' for pictures of different sizes, got {mode!r}")
        for module in self.modules():
            if isinstance(module, (nn.GroupNorm, nn.modules.instancenorm._InstanceNorm)):
                raise ValueError(
                    "norm_cfg must be None or BatchNorm for pictures of different sizes, got "
                    f"{type(module).__name__}, whose statistics take the padding in"
                )


class _WithConvolutions:
    """What ``neck`` is, with other ``fpn_convs``."""

    def __init__(self, neck: FPN, fpn_convs: List[Callable[[Tensor], Tensor]]) -> None:
        self.neck = neck
        self.fpn_convs = fpn_convs

    def __getattr__(self, name: str) -> Any:
        return getattr(self.neck, name)


def _alone(conv: nn.Module, before: Optional[Tensor], after: Optional[Tensor]) -> Callable[[Tensor], Tensor]:
    """A convolution that reads and returns 0 outside the pictures, of sizes ``before`` and ``after`` it."""
    return lambda x: zero_outside(conv(zero_outside(x, before, height_dim=2)), after, height_dim=2)
