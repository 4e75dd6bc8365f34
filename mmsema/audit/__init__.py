"""Is this data fit for training and testing? What every cause means: docs/data_audit.md."""

from .causes import CAUSES, Cause
from .coco import audit_coco
from .folders import audit_folders
from .pairs import audit_pairs
from .report import Report
from .run import audit_config

__all__ = ["CAUSES", "Cause", "Report", "audit_coco", "audit_config", "audit_folders", "audit_pairs"]
