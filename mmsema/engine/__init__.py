from .channels_last import to_channels_last
from .check_weights import CheckWeights
from .launch import UsageError, test, train
from .layer_decay import LayerDecayOptimWrapperConstructor

__all__ = ["CheckWeights", "LayerDecayOptimWrapperConstructor", "UsageError", "test", "to_channels_last", "train"]
