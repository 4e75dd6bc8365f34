"""Inference on the hosts' inferencers."""

from ..engine.config import PathLike, read_config
from .models import Classifier, Detector, load_model
from .predict import Predictions, predict, read_picture

__all__ = [
    "Classifier",
    "Detector",
    "PathLike",
    "Predictions",
    "load_model",
    "predict",
    "read_config",
    "read_picture",
]
