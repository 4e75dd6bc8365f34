"""Token mixers: SEMA, and those that it is compared with, one file each. docs/mixers.md has them side by side."""

from typing import Dict, Type

from .averaging import AVERAGES
from .base import Mixer
from .focused import FocusedMixer
from .inline import InLineMixer
from .linear import LinearMixer
from .mala import MALAMixer
from .rala import RALAMixer
from .sema import SEMAMixer
from .softmax import SoftmaxMixer
from .window import WindowMixer

# what SEMA(mixer=...) accepts; one more entry is one more mixer
MIXERS: Dict[str, Type[Mixer]] = dict(
    sema=SEMAMixer,
    window=WindowMixer,
    softmax=SoftmaxMixer,
    linear=LinearMixer,
    inline=InLineMixer,
    focused=FocusedMixer,
    mala=MALAMixer,
    rala=RALAMixer,
)

__all__ = ["AVERAGES", "MIXERS", "LinearMixer", "Mixer", "SEMAMixer"]
