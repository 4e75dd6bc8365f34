from .channels_last import to_channels_last
from .errors import UsageError
from .hooks import CheckWeights
from .launch import test, train
from .layer_decay import LayerDecayOptimWrapperConstructor

__all__ = ["CheckWeights", "LayerDecayOptimWrapperConstructor", "UsageError", "test", "to_channels_last", "train"]
