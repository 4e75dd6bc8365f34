"""All planted faults by name; see planting.py for what one can do."""

import annotation_faults
import file_faults
from planting import FAULTS, MAKE, Fault, audit

__all__ = ["FAULTS", "MAKE", "Fault", "annotation_faults", "audit", "file_faults"]
