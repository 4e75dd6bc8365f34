"""Timing against what else computes the same thing; ``report <- timing <- operators, backbones, gpu_checks <- run``."""

from .run import run

__all__ = ["run"]
