"""Timing against what else computes the same thing.

``report <- timing <- operators, backbones, detector, gpu_checks, sweep <- run``
"""

from .run import run

__all__ = ["run"]
