"""The SEMA backbone: stem, up to four stages of blocks, one LayerNorm per output."""

from functools import partial
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

import torch
from mmengine.model import BaseModule
from mmsema_kernels import zero_outside
from mmsema_kernels.dispatch import check_window_size
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from ..registry import register_backbone
from .block import LayerNorm, MambaLikeBlock
from .mixers import AVERAGES, MIXERS, Mixer, SEMAMixer
from .names import plain_name
from .padding import Layers, halve, picture_sizes

# width C of the first stage (doubled by every further one), blocks per stage, heads per stage
ARCHITECTURES: Dict[str, dict] = {
    "pico": dict(embed_dims=32, depths=(1, 1, 2, 1), num_heads=(1, 2, 4, 8)),
    "tiny": dict(embed_dims=64, depths=(2, 4, 8, 4), num_heads=(2, 4, 8, 16)),
    "small": dict(embed_dims=64, depths=(3, 6, 21, 6), num_heads=(2, 4, 8, 16)),
    "base": dict(embed_dims=96, depths=(3, 6, 21, 6), num_heads=(3, 6, 12, 24)),
}


def conv_bn(in_channels: int, out_channels: int, kernel_size: int, stride: int = 1) -> List[nn.Module]:
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=kernel_size // 2, bias=False)
    return [conv, nn.BatchNorm2d(out_channels)]


class Stem(nn.Module):
    """(B, 3, H, W) -> (B, C, ceil(H/4), ceil(W/4)): convolutions with one residual pair, stride 4.

    With ``sizes``, see :class:`SEMA`, in pixels: x must be 0 outside the pictures.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = Layers(*conv_bn(3, half, 3, stride=2), nn.ReLU(inplace=True))
        self.conv2 = Layers(*conv_bn(half, half, 3), nn.ReLU(inplace=True), *conv_bn(half, half, 3))
        self.conv3 = Layers(
            *conv_bn(half, 4 * channels, 3, stride=2), nn.ReLU(inplace=True), *conv_bn(4 * channels, channels, 1)
        )

    def forward(self, x: Tensor, sizes: Optional[Tensor] = None) -> Tensor:
        x = self.conv1(x, sizes)
        sizes = halve(sizes)
        x = x + self.conv2(x, sizes)
        return self.conv3(zero_outside(x, sizes, height_dim=2, inplace=True), sizes)


class Downsample(Layers):
    """(B, C, H, W) -> (B, 2C, ceil(H/2), ceil(W/2)), between two stages."""

    def __init__(self, channels: int) -> None:
        wide = 8 * channels
        super().__init__(
            nn.Conv2d(channels, wide, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(wide, wide, 3, stride=2, padding=1, groups=wide),
            nn.ReLU(inplace=True),
            nn.Conv2d(wide, 2 * channels, 1),
            nn.BatchNorm2d(2 * channels),
        )


def _parse_arch(arch: Union[str, dict]) -> Tuple[int, Sequence[int], Sequence[int]]:
    if isinstance(arch, str):
        if arch not in ARCHITECTURES:
            raise ValueError(f"arch must be one of {tuple(ARCHITECTURES)} or a dict, got {arch!r}")
        arch = ARCHITECTURES[arch]
    elif not isinstance(arch, dict):
        raise TypeError(f"arch must be one of {tuple(ARCHITECTURES)} or a dict, got {arch!r}")
    keys = ("embed_dims", "depths", "num_heads")
    if set(arch) != set(keys):
        raise ValueError(f"arch as a dict must have exactly the keys {keys}, got {tuple(arch)}")
    width, depths, num_heads = (arch[key] for key in keys)
    if not isinstance(width, int) or width < 4 or width % 4:
        raise ValueError(f"arch['embed_dims'] must be a positive multiple of 4, got {width!r}")
    for name, values in (("depths", depths), ("num_heads", num_heads)):
        if (
            not isinstance(values, (list, tuple))
            or not values
            or not all(isinstance(n, int) and n >= 1 for n in values)
        ):
            raise ValueError(f"arch['{name}'] must be a sequence of ints >= 1, one per stage, got {values!r}")
    if len(depths) != len(num_heads):
        raise ValueError(f"arch['depths'] and arch['num_heads'] must have one length, got {depths!r} and {num_heads!r}")
    for stage, heads in enumerate(num_heads):
        if (width << stage) % heads:
            raise ValueError(f"arch['num_heads'][{stage}] must divide the stage's width {width << stage}, got {heads}")
    return width, depths, num_heads


def _parse_out_indices(out_indices: Union[int, Sequence[int]], num_stages: int) -> Tuple[int, ...]:
    indices = (out_indices,) if isinstance(out_indices, int) else out_indices
    if not isinstance(indices, (list, tuple, range)) or not all(isinstance(i, int) for i in indices):
        raise TypeError(f"out_indices must be an int or a sequence of ints, got {out_indices!r}")
    choices = f"from {-num_stages}..{num_stages - 1}"
    if not indices or any(not -num_stages <= i < num_stages for i in indices):
        raise ValueError(f"out_indices must be stages {choices}, got {out_indices!r}")
    indices = tuple(i % num_stages for i in indices)
    if list(indices) != sorted(set(indices)):
        raise ValueError(f"out_indices must be different stages {choices} in ascending order, got {out_indices!r}")
    return indices


def _parse_mixer(mixer: str, averaging: str) -> Callable[[int, int, int], Mixer]:
    if mixer not in tuple(MIXERS):
        raise ValueError(f"mixer must be one of {tuple(MIXERS)}, got {mixer!r}")
    if averaging not in tuple(AVERAGES):
        raise ValueError(f"averaging must be one of {tuple(AVERAGES)}, got {averaging!r}")
    if averaging == "mean":
        return MIXERS[mixer]
    if mixer != "sema":
        raise ValueError(f"averaging must be 'mean' unless mixer is 'sema', got {averaging!r} with mixer {mixer!r}")
    return partial(SEMAMixer, averaging=averaging)


def _loud(init_cfg: Any) -> Any:
    """Have ``type='Pretrained'`` mean ours, which raises where mmengine's goes on with what little it loaded."""
    ours = "mmsema.Pretrained"
    if isinstance(init_cfg, (list, tuple)):  # weights come last, as with mmengine, which knows its own by their type
        return sorted(map(_loud, init_cfg), key=lambda cfg: isinstance(cfg, dict) and cfg.get("type") == ours)
    if isinstance(init_cfg, dict) and init_cfg.get("type") == "Pretrained":
        return dict(init_cfg, type=ours)
    return init_cfg


@register_backbone
class SEMA(BaseModule):
    """Vision backbone whose token mixer is windowed softmax attention plus the mean of all values (arXiv 2506.08297).

    The mixers that SEMA is compared with take its place by name, everything else being equal.

    ``forward`` takes images (B, 3, H, W) of any H, W >= 1 and returns a tuple with one contiguous map
    (B, C_i, ceil(H/s_i), ceil(W/s_i)) per entry of ``out_indices``; s = 4, 8, 16, 32 and C_i = C * 2**i.

    A picture (h, w) in a padded batch has the maps that it would have alone, ceil(h/s_i) x ceil(w/s_i), and 0 outside
    them. Where it ends is seen in the batch, see ``pad_value``, or said by ``forward(x, sizes)``: (h, w) of every
    picture in pixels, (B, 2), integers, on x's device.

    Args:
        arch: "pico", "tiny", "small", "base", or a dict with exactly the keys ``embed_dims`` (width C of the first
            stage), ``depths`` and ``num_heads`` (one number per stage).
        window_size: side of the attention windows in tokens, >= 1.
        drop_path_rate: stochastic depth, rising linearly from 0 at the first block to this rate at the last, in [0, 1).
        out_indices: stages whose maps are returned, ascending; negative ones count from the last. Stages and norms
            that no output needs are not built.
        frozen_stages: -1 freezes nothing, 0 the stem, k the stem and the first k stages.
        norm_eval: keep BatchNorm layers in eval mode (running statistics fixed) while training.
        with_cp: recompute the blocks in backward instead of storing their activations.
        pad_value: what the host pads the pictures of a batch with, after normalisation: rows at the bottom and columns
            on the right that are exactly this in all channels are no part of a picture. None takes batches as they are.
        mixer: "sema", or what it is compared with: "window" (no mean), "softmax" (over all tokens), "linear" (MILA's),
            "inline", "focused", "mala", "rala". :mod:`mmsema.models.mixers` has their equations and costs.
        averaging: what "sema" adds to window attention: "mean", "none", "max", "weighted" (softmax-weighted mean, one
            learned query per head) or "scaled" (the mean times a learned number).
        init_cfg: mmengine's initialisation config, for instance ``dict(type='Pretrained', checkpoint=...)``, which
            reports what it loaded and raises when little matched (:mod:`mmsema.checkpoint`).

    Raises:
        TypeError, ValueError: an argument is impossible; the message names it, its value and the choices.
    """

    def __init__(
        self,
        arch: Union[str, dict] = "tiny",
        window_size: int = 7,
        drop_path_rate: float = 0.0,
        out_indices: Union[int, Sequence[int]] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        pad_value: Optional[float] = 0.0,
        mixer: str = "sema",
        averaging: str = "mean",
        init_cfg: Optional[Union[dict, List[dict]]] = None,
    ) -> None:
        super().__init__(_loud(init_cfg))
        width, depths, num_heads = _parse_arch(arch)
        check_window_size(window_size)
        make_mixer = _parse_mixer(mixer, averaging)
        if not isinstance(drop_path_rate, (int, float)) or not 0 <= drop_path_rate < 1:
            raise ValueError(f"drop_path_rate must be in [0, 1), got {drop_path_rate!r}")
        self.out_indices = _parse_out_indices(out_indices, len(depths))
        num_stages = self.out_indices[-1] + 1
        if not isinstance(frozen_stages, int) or not -1 <= frozen_stages <= num_stages:
            raise ValueError(f"frozen_stages must be an int from -1..{num_stages}, got {frozen_stages!r}")
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        is_number = isinstance(pad_value, (int, float)) and not isinstance(pad_value, bool) and pad_value == pad_value
        if pad_value is not None and not is_number:  # NaN is none: no pixel equals it
            raise TypeError(f"pad_value must be a number or None, got {pad_value!r}")
        self.pad_value = pad_value

        blocks = sum(depths)
        rates = [drop_path_rate * i / max(blocks - 1, 1) for i in range(blocks)]
        self.stem = Stem(width)
        self.downsamples = nn.ModuleList()  # downsamples[i] stands between stages i and i + 1
        self.stages = nn.ModuleList()
        for stage in range(num_stages):
            channels, first = width << stage, sum(depths[:stage])
            if stage:
                self.downsamples.append(Downsample(channels // 2))
            self.stages.append(
                nn.ModuleList(
                    MambaLikeBlock(channels, num_heads[stage], window_size, rate, make_mixer)
                    for rate in rates[first : first + depths[stage]]
                )
            )
            if stage in self.out_indices:
                self.add_module(f"norm{stage}", LayerNorm(channels))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        self.train()

    def _frozen_modules(self) -> List[nn.Module]:
        if self.frozen_stages < 0:
            return []
        norms = [getattr(self, f"norm{i}") for i in self.out_indices if i < self.frozen_stages]
        return [
            self.stem,
            *self.stages[: self.frozen_stages],
            *self.downsamples[: max(self.frozen_stages - 1, 0)],
            *norms,
        ]

    def _freeze(self) -> None:
        for module in self._frozen_modules():
            module.requires_grad_(False)

    def train(self, mode: bool = True) -> "SEMA":
        """Set the mode of all modules that are not frozen; returns self."""
        super().train(mode)
        self._freeze()
        for module in self._frozen_modules():
            module.eval()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def get_layer_depth(self, param_name: str, prefix: str = "") -> Tuple[int, int]:
        """The layer that a parameter belongs to and the number of layers, as layer-wise learning-rate decay counts.

        Layer 0 is the stem, every block is one (with the downsampling after it), and the norms of the outputs and all
        that follows the backbone (names that do not start with ``prefix``) are the last.
        """
        depths = [len(stage) for stage in self.stages]
        last = sum(depths) + 1
        name = plain_name(param_name)
        kind, *numbers = name[len(prefix) :].split(".") if name.startswith(prefix) else [""]
        if kind == "stem":
            return 0, last + 1
        if kind == "stages":
            return 1 + sum(depths[: int(numbers[0])]) + int(numbers[1]), last + 1
        if kind == "downsamples":
            return sum(depths[: int(numbers[0]) + 1]), last + 1
        return last, last + 1

    def forward(self, x: Tensor, sizes: Optional[Tensor] = None) -> Tuple[Tensor, ...]:
        if x.ndim != 4 or x.shape[1] != 3 or x.shape[2] == 0 or x.shape[3] == 0:
            raise ValueError(f"x must be images of shape (B, 3, H, W), H and W at least 1, got {tuple(x.shape)}")
        sizes = picture_sizes(x, sizes, self.pad_value)
        images = x.contiguous(memory_format=torch.channels_last)
        x = self.stem(zero_outside(images, sizes, height_dim=2, inplace=images is not x), sizes)
        sizes = halve(halve(sizes))
        outputs = []
        for i, blocks in enumerate(self.stages):
            if i:
                x = self.downsamples[i - 1](x, sizes)
                sizes = halve(sizes)
            x = x.permute(0, 2, 3, 1).contiguous()  # (B, H, W, C), without a copy: convolutions keep channels_last
            for block in blocks:
                recompute = self.with_cp and self.training and torch.is_grad_enabled()
                x = checkpoint(block, x, sizes, use_reentrant=False) if recompute else block(x, sizes)
            if i in self.out_indices:
                # contiguous NCHW: some consumers, mmcv's RoIAlign among them, misread channels_last maps
                out = zero_outside(getattr(self, f"norm{i}")(x), sizes)
                outputs.append(out.permute(0, 3, 1, 2).contiguous())
            x = x.permute(0, 3, 1, 2)
        return tuple(outputs)


@register_backbone
class MILA(SEMA):
    """``SEMA(mixer="linear")``: the same macro design and parameters, MILA's linear attention (arXiv 2405.16605)."""

    def __init__(
        self,
        arch: Union[str, dict] = "tiny",
        window_size: int = 7,
        drop_path_rate: float = 0.0,
        out_indices: Union[int, Sequence[int]] = (0, 1, 2, 3),
        frozen_stages: int = -1,
        norm_eval: bool = False,
        with_cp: bool = False,
        pad_value: Optional[float] = 0.0,
        init_cfg: Optional[Union[dict, List[dict]]] = None,
    ) -> None:
        super().__init__(
            arch,
            window_size,
            drop_path_rate,
            out_indices,
            frozen_stages,
            norm_eval,
            with_cp,
            pad_value,
            "linear",
            init_cfg=init_cfg,
        )
