"""Run parts of a model without numbers: nothing is allocated, and the shapes of what comes out are known in seconds."""

import contextlib
import copy
import io
import logging
import warnings
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple, Union

import torch
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

SIZES = (224, 256, 512)  # pixels; some backbones take one size only, and say so


class _OnMeta(TorchFunctionMode):
    """Tensors that will be parameters are made on the device meta; those that constructors compute with stay real."""

    MAKERS = (torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn)

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function in self.MAKERS and kwargs.get("device") is None:
            kwargs["device"] = "meta"
        return function(*args, **kwargs)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """No warnings, nothing printed or logged, and the random state as it was."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # torch reports every operator that refuses a shape
    try:
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def build(cfg: dict, scope: str) -> nn.Module:
    """The module of a config, without memory for its weights; if that fails, as the runner would build it."""
    cfg = copy.deepcopy(cfg)
    for key in ("init_cfg", "dcn"):  # deformable convolutions of mmcv run on numbers only, and change no channels
        cfg.pop(key, None)
    if cfg.get("pretrained"):
        cfg["pretrained"] = False if cfg["pretrained"] is True else None
    with quietly(), DefaultScope.overwrite_default_scope(scope):
        registry = MODELS._search_child(scope) or MODELS
        try:
            with _OnMeta():
                module = registry.build(copy.deepcopy(cfg))
        except Exception:
            module = registry.build(cfg)
    if hasattr(module, "pad_value"):
        module.pad_value = None  # there are no numbers to find padding in
    return module


_MODE = FakeTensorMode()
Shapes = Tuple[Tuple[int, ...], ...]


def run(module: nn.Module, *inputs: Any) -> Any:
    """What a module makes of tensors without numbers; raises whatever it raises."""
    with quietly(), _MODE, torch.no_grad():
        for part in module.modules():
            for name, parameter in part._parameters.items():
                if parameter is not None:
                    empty = torch.empty(parameter.shape, dtype=parameter.dtype)
                    part._parameters[name] = nn.Parameter(empty, requires_grad=False)
            for name, buffer in part._buffers.items():
                if buffer is not None:
                    part._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype)
        module.eval()
        return module(*inputs)


def empty_tensors(shapes: Shapes) -> List[Tensor]:
    with _MODE:
        return [torch.empty(shape) for shape in shapes]


_known: Dict[str, Optional[Tuple[Shapes, int]]] = {}


def maps_of(cfg: dict, scope: str) -> Optional[Tuple[Shapes, int]]:
    """The shapes that a backbone gives for a picture, and the side of that picture; None if that cannot be told.

    Raises whatever building the backbone raises.
    """
    key = f"{scope} {cfg!r}"
    if key not in _known:
        backbone = build(cfg, scope)
        channels = cfg.get("in_channels", cfg.get("in_chans", 3))
        side = cfg.get("img_size")
        side = side[0] if isinstance(side, (list, tuple)) and side else side
        _known[key] = None
        for size in (*([side] if isinstance(side, int) else []), *SIZES):
            with contextlib.suppress(Exception):
                (picture,) = empty_tensors(((1, channels if isinstance(channels, int) else 3, size, size),))
                found = tensors(run(backbone, picture))
                if found is not None:
                    _known[key] = tuple(tuple(one.shape) for one in found), size
                    break
    return _known[key]


def tensors(output: Union[Tensor, Sequence[Tensor], Dict[str, Tensor]]) -> Optional[List[Tensor]]:
    """The output as a list of tensors, or None if it is something else."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, (list, tuple)) and output and all(isinstance(one, Tensor) and one.ndim > 1 for one in output):
        return list(output)
    return None


def channels(found: Sequence[Tensor]) -> List[int]:
    """Of maps (B, C, H, W), vectors (B, C) or sequences (B, N, C)."""
    return [one.shape[-1] if one.ndim == 3 else one.shape[1] for one in found]
