"""Registries in scope ``mmsema``, children of mmengine's: ``type='mmsema.SEMA'`` resolves without any import."""

import warnings
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, distribution

from mmengine.config.utils import MODULE2PACKAGE
from mmengine.registry import DATASETS as ROOT_DATASETS
from mmengine.registry import HOOKS as ROOT_HOOKS
from mmengine.registry import MODELS as ROOT_MODELS
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as ROOT_OPTIM_WRAPPER_CONSTRUCTORS
from mmengine.registry import VISUALIZERS as ROOT_VISUALIZERS
from mmengine.registry import WEIGHT_INITIALIZERS as ROOT_WEIGHT_INITIALIZERS
from mmengine.registry import Registry

from .hub import register_classifiers

MODELS = Registry("model", parent=ROOT_MODELS, scope="mmsema", locations=["mmsema.models"])
DATASETS = Registry("dataset", parent=ROOT_DATASETS, scope="mmsema", locations=["mmsema.datasets"])
HOOKS = Registry("hook", parent=ROOT_HOOKS, scope="mmsema", locations=["mmsema.engine"])
OPTIM_WRAPPER_CONSTRUCTORS = Registry(
    "optimizer wrapper constructor",
    parent=ROOT_OPTIM_WRAPPER_CONSTRUCTORS,
    scope="mmsema",
    locations=["mmsema.engine"],
)
VISUALIZERS = Registry("visualizer", parent=ROOT_VISUALIZERS, scope="mmsema", locations=["mmsema.visualization"])
WEIGHT_INITIALIZERS = Registry(
    "weight initializer", parent=ROOT_WEIGHT_INITIALIZERS, scope="mmsema", locations=["mmsema.checkpoint"]
)


def register_backbone(cls: type) -> type:
    """Register under ``mmsema.<name>`` and, where the name is free, in mmengine's root under the bare name."""
    MODELS.register_module(module=cls)
    taken_by = ROOT_MODELS.module_dict.get(cls.__name__)
    if taken_by is None:
        ROOT_MODELS.register_module(module=cls)
    else:
        warnings.warn(
            f"{cls.__name__!r} is already registered by {taken_by.__module__}; write type='mmsema.{cls.__name__}'",
            stacklevel=2,
        )
    return cls


register_classifiers()

with suppress(PackageNotFoundError):
    distribution("onedl-mmsegmentation")
    # where configs with `_base_ = "mmseg::..."` find the fork; mmengine looks for the official package only
    MODULE2PACKAGE["mmseg"] = "onedl-mmsegmentation"
