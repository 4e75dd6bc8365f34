"""Weights: reading them safely, loading them loudly, converting MILA's, publishing ours."""

from .hosts import read_safely
from .match import LoadReport, LoudPretrainedInit, find_state_dict, load_weights, match_weights
from .mila import convert_mila
from .publish import publish_model, save_weights
from .read import CheckpointError, read_checkpoint

__all__ = [
    "CheckpointError",
    "LoadReport",
    "LoudPretrainedInit",
    "convert_mila",
    "find_state_dict",
    "load_weights",
    "match_weights",
    "publish_model",
    "read_checkpoint",
    "read_safely",
    "save_weights",
]
