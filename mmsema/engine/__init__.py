from .channels_last import to_channels_last
from .check_weights import CheckWeights
from .launch import UsageError, test, train

__all__ = ["CheckWeights", "UsageError", "test", "to_channels_last", "train"]
