from .launch import UsageError, test, train

__all__ = ["UsageError", "test", "train"]
