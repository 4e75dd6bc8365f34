from .check_weights import CheckWeights

__all__ = ["CheckWeights"]
