"""mmdet's FPN for the maps of padded batches. It imports mmdet, so configs name it in their custom_imports."""

from typing import Optional, Tuple

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
    """

    def forward(self, inputs: Tuple[Tensor, ...]) -> tuple:
        sizes = [find_sizes(x, 0.0) for x in inputs[self.start_level : self.backbone_end_level]]
        levels = len(sizes)
        handles = []
        for i, conv in enumerate(self.fpn_convs):
            before = sizes[min(i, len(sizes) - 1)]
            if i >= levels:  # an extra one, of stride 2
                sizes.append(halve(before))
            handles += _clear(conv, before, sizes[i])
        try:
            return super().forward(inputs)
        finally:
            for handle in handles:
                handle.remove()


def _clear(conv: nn.Module, before: Optional[Tensor], after: Optional[Tensor]) -> list:
    """Have a convolution read and return 0 outside the pictures, until the handles are removed."""
    return [
        conv.register_forward_pre_hook(lambda module, args: (zero_outside(args[0], before, height_dim=2),)),
        conv.register_forward_hook(lambda module, args, out: zero_outside(out, after, height_dim=2)),
    ]
