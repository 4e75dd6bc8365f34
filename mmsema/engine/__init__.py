from .channels_last import to_channels_last
from .launch import UsageError, test, train

__all__ = ["UsageError", "test", "to_channels_last", "train"]
