from .digits import Digits
from .same_or_different import SameOrDifferent

__all__ = ["Digits", "SameOrDifferent"]
