from .sema import MILA, SEMA

__all__ = ["MILA", "SEMA"]
