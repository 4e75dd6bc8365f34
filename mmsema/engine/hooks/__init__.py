from .check_weights import CheckWeights, read_safely

__all__ = ["CheckWeights", "read_safely"]
