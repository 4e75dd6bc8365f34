"""Layer-wise learning-rate decay for any model whose backbone can tell the depth of a parameter."""

from typing import List, Optional, Union

from mmengine.optim import DefaultOptimWrapperConstructor
from torch import nn

from ..registry import OPTIM_WRAPPER_CONSTRUCTORS, ROOT_OPTIM_WRAPPER_CONSTRUCTORS


@ROOT_OPTIM_WRAPPER_CONSTRUCTORS.register_module()
@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """mmengine's constructor, with learning rates that fall from the model's head to its stem.

    ``paramwise_cfg`` takes ``layer_decay_rate`` in (0, 1] beside all that mmengine's takes (``norm_decay_mult``,
    ``custom_keys``, ...). A parameter's learning rate is multiplied by ``layer_decay_rate`` once for every layer
    between it and the last, as ``model.backbone.get_layer_depth(name, "backbone.")`` says. In every host::

        optim_wrapper = dict(
            constructor="mmsema.LayerDecayOptimWrapperConstructor",
            paramwise_cfg=dict(layer_decay_rate=0.9, norm_decay_mult=0.0, bias_decay_mult=0.0),
        )
    """

    def add_params(
        self, params: List[dict], module: nn.Module, prefix: str = "", is_dcn_module: Optional[Union[int, float]] = None
    ) -> None:
        """Add the parameters of ``module`` to ``params``, one group each."""
        super().add_params(params, module, prefix, is_dcn_module)
        if prefix:
            return  # called for a part; the whole model's call, which comes back last, scales them all
        rate = self.paramwise_cfg.get("layer_decay_rate")
        if not isinstance(rate, (int, float)) or not 0 < rate <= 1:
            raise ValueError(f"paramwise_cfg['layer_decay_rate'] must be in (0, 1], got {rate!r}")
        backbone = getattr(module, "backbone", None)
        if backbone is None or not hasattr(backbone, "get_layer_depth"):
            raise ValueError(f"layer_decay_rate needs a backbone with get_layer_depth, got {type(backbone).__name__}")
        names = {parameter: name for name, parameter in module.named_parameters()}
        for group in params:
            depth, layers = backbone.get_layer_depth(names[group["params"][0]], "backbone.")
            group["lr"] = group.get("lr", self.base_lr) * rate ** (layers - 1 - depth)
