from .check_finite import CheckFinite, NotFiniteError
from .check_weights import CheckWeights
from .exact_resume import ExactResume
from .measure_cost import MeasureCost
from .stop_on_signal import StopOnSignal, end_workers
from .whole_checkpoints import WholeCheckpointHook

__all__ = [
    "CheckFinite",
    "CheckWeights",
    "ExactResume",
    "MeasureCost",
    "NotFiniteError",
    "StopOnSignal",
    "WholeCheckpointHook",
    "end_workers",
]
