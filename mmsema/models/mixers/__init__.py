"""Token mixers: SEMA, and those that it is compared with. Same parameters, other arithmetic."""

from .base import Mixer
from .linear import LinearMixer
from .sema import SEMAMixer

__all__ = ["LinearMixer", "Mixer", "SEMAMixer"]
