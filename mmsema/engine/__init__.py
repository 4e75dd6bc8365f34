from .channels_last import to_channels_last
from .errors import UsageError
from .failure import RunFailed
from .hooks import CheckFinite, CheckWeights, ExactResume, MeasureCost, StopOnSignal, WholeCheckpointHook
from .launch import test, train
from .layer_decay import LayerDecayOptimWrapperConstructor
from .quiet import ignore_known_warnings

__all__ = [
    "CheckFinite",
    "CheckWeights",
    "ExactResume",
    "LayerDecayOptimWrapperConstructor",
    "MeasureCost",
    "RunFailed",
    "StopOnSignal",
    "UsageError",
    "WholeCheckpointHook",
    "ignore_known_warnings",
    "test",
    "to_channels_last",
    "train",
]
