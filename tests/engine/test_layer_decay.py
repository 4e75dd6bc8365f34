"""Learning rates that fall with depth and weight decay that spares norms and biases, in both hosts."""

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from torch import nn

from mmsema import SEMA

DETECTOR, CLASSIFIER = "configs/retinanet_sema-t_fpn_1x_coco.py", "configs/sema-t_8xb128_in1k.py"


def options(path: str, **wrapper) -> tuple:
    """The model, and for every parameter's name its group in the optimiser that the config's wrapper builds."""
    cfg = Config.fromfile(path)
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.arch = "pico"
    if cfg.default_scope == "mmdet":
        cfg.model.neck.in_channels = [64, 128, 256]
    model = MODELS.build(cfg.model)
    settings = Config(dict(optim_wrapper=cfg.optim_wrapper))
    settings.merge_from_dict(dict(optim_wrapper=wrapper))
    groups = build_optim_wrapper(model, settings.optim_wrapper).optimizer.param_groups
    by_parameter = {parameter: group for group in groups for parameter in group["params"]}
    return model, {name: by_parameter[p] for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("path", [DETECTOR, CLASSIFIER])
@pytest.mark.parametrize("scope", ["mmsema.", ""])
def test_learning_rates_fall_with_depth(path, scope):
    constructor = scope + "LayerDecayOptimWrapperConstructor"
    paramwise = dict(layer_decay_rate=0.5, custom_keys={"cpe1": dict(lr_mult=10.0)})
    model, found = options(path, constructor=constructor, paramwise_cfg=paramwise)
    base = Config.fromfile(path).optim_wrapper.optimizer.lr
    layers = {"stem.conv1.0.weight": 0, "stages.0.0.mlp.fc1.weight": 1, "downsamples.0.0.weight": 1}
    layers |= {"stages.1.0.out_proj.bias": 2, "stages.2.1.norm1.weight": 4, "downsamples.2.5.weight": 4}
    layers |= {"stages.3.0.mlp.fc2.bias": 5, "norm3.weight": 6}
    for name, layer in layers.items():
        assert found["backbone." + name]["lr"] == pytest.approx(base * 0.5 ** (6 - layer)), name
    assert found["backbone.stages.0.0.cpe1.weight"]["lr"] == pytest.approx(
        10 * base * 0.5**5
    )  # mmengine's own settings
    heads = {group["lr"] for name, group in found.items() if not name.startswith("backbone.")}
    assert list(heads) == [pytest.approx(base)]
    assert found["backbone.norm3.weight"]["weight_decay"] == 0


def test_layers_are_numbered_without_gaps():
    with torch.device("meta"):
        model = SEMA("small")
    depths = [model.get_layer_depth(name) for name, _ in model.named_parameters()]
    assert {layers for _, layers in depths} == {38} and {depth for depth, _ in depths} == set(range(38))


def test_wrappers_hide_no_layer():
    with torch.device("meta"):
        model = SEMA("pico")
    for name, _ in model.named_parameters():
        depth = model.get_layer_depth(f"backbone.{name}", "backbone.")
        assert depth == model.get_layer_depth(name)
        for wrapped in (f"module.backbone.{name}", f"backbone._orig_mod.{name}", f"_orig_mod.backbone.{name}"):
            assert model.get_layer_depth(wrapped, "backbone.") == depth
        inside = name.replace("stages.0.0.", "stages.0.0._checkpoint_wrapped_module.")
        assert model.get_layer_depth(inside) == depth


@pytest.mark.parametrize("rate", [None, 0, 1.5, "0.9"])
def test_wrong_rates_are_named(rate):
    with pytest.raises(ValueError, match=r"layer_decay_rate'\] must be in \(0, 1\]"):
        options(
            CLASSIFIER,
            constructor="mmsema.LayerDecayOptimWrapperConstructor",
            paramwise_cfg=dict(layer_decay_rate=rate),
        )


@pytest.mark.parametrize("path", [DETECTOR, CLASSIFIER])
def test_norms_and_biases_are_not_decayed(path):
    model, found = options(path)
    norms = {
        f"{name}.{kind}"
        for name, module in model.named_modules()
        if isinstance(module, (nn.LayerNorm, nn.BatchNorm2d))
        for kind in ("weight", "bias")
    }
    assert len(norms) > 20
    for name, group in found.items():
        assert group["weight_decay"] == (0.0 if name in norms or name.endswith("bias") else 0.05), name
