"""What the operators of this package share: which backend runs and why, autocast, launches, registration with PyTorch.

Importing this file needs torch only, 2.1 or newer.
"""

import contextlib
import os
from functools import cache
from importlib.util import find_spec
from typing import Any, Callable, ContextManager, Dict, Iterator, Optional, Tuple

import torch
from torch import Tensor

BACKENDS = ("triton", "torch", "padded", "reference")
ENVIRONMENT_VARIABLE = "MMSEMA_KERNEL"
OLDEST_TRITON = (3, 2)

is_compiling = getattr(torch.compiler, "is_compiling", lambda: False)  # since torch 2.3

# what use_backend names; compiled graphs are guarded by it, which by a variable that is not set they are not
_in_use: Optional[str] = None

_library = torch.library.Library("mmsema", "FRAGMENT")


@torch.compiler.assume_constant_result
def no_triton_on(device: str) -> str:
    """Why Triton cannot run on ``device``, a name such as "cuda:0"; empty where it can."""
    return _no_triton_on(device, os.environ.get("TRITON_INTERPRET") == "1")


@cache  # it is asked at every call of every operator
def _no_triton_on(device: str, interpreted: bool) -> str:
    if find_spec("triton") is None:
        return "Triton is not installed"
    from triton import __version__

    if tuple(map(int, __version__.split(".")[:2])) < OLDEST_TRITON:
        return f"Triton {__version__} is older than {'.'.join(map(str, OLDEST_TRITON))}"
    if device == "cpu":
        return "" if interpreted else "on the CPU it runs only in Triton's interpreter: set TRITON_INTERPRET=1"
    if not device.startswith("cuda"):
        return f"there are kernels for CUDA devices only, not for {device}"
    if torch.version.hip:
        return "there are kernels for CUDA devices only, not for ROCm"
    capability = torch.cuda.get_device_capability(device)
    return "" if capability >= (8, 0) else f"compute capability {capability[0]}.{capability[1]} is below 8.0"


def is_exporting() -> bool:
    """Whether a graph is made that must hold for every size: tracing, ONNX, torch.export."""
    exporting = getattr(torch.compiler, "is_exporting", None)  # since torch 2.7
    return torch.jit.is_tracing() or torch.onnx.is_in_onnx_export() or bool(exporting and exporting())


def asked_for(requested: Optional[str]) -> str:
    """The backend that the argument names, else :func:`use_backend`, else the environment variable, else "auto"."""
    if requested is not None:
        return requested
    return _in_use or os.environ.get(ENVIRONMENT_VARIABLE, "auto")


def choose_backend(requested: Optional[str], device: torch.device, why_not_triton: Callable[[], str]) -> str:
    """The backend that is asked for, see :func:`asked_for`; "auto" is Triton on CUDA where it can run.

    While a model is exported or traced, "auto" is "padded", whose graph holds for every size.
    ``why_not_triton`` says why the kernels cannot take the arguments; empty if they can. A backend asked for by name
    either runs or raises.
    """
    source = "backend" if requested is not None else "use_backend" if _in_use else ENVIRONMENT_VARIABLE
    name = asked_for(requested)
    if name == "auto":
        if is_exporting():
            return "padded"
        return "triton" if device.type == "cuda" and not why_not_triton() else "torch"
    if name not in BACKENDS:
        raise ValueError(f"{source} must be one of {('auto', *BACKENDS)}, got {name!r}")
    reason = why_not_triton() if name == "triton" else ""
    if reason:
        raise RuntimeError(f"{source} is 'triton', which cannot run here: {reason}")
    return name


@contextlib.contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Run a block of code on the backend ``name``, "auto" or one of :func:`mmsema_kernels.available_backends`::

        with use_backend("reference"):
            out = model(images)

    It holds for the whole process, all its threads and models that are compiled already. ``backend=`` goes before it,
    and it before the environment variable MMSEMA_KERNEL. (That one a compiled model looks at only if it was set when
    the model was compiled.)

    Raises:
        ValueError: there is no such backend.
    """
    if name not in ("auto", *BACKENDS):
        raise ValueError(f"name must be one of {('auto', *BACKENDS)}, got {name!r}")
    global _in_use
    before, _in_use = _in_use, name
    try:
        yield
    finally:
        _in_use = before


def autocast_dtype(device: str) -> Optional[torch.dtype]:
    """Autocast's dtype on a type of device, None where it is off."""
    if device == "meta":  # has no autocast
        return None
    if hasattr(torch, "get_autocast_dtype"):
        return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    if device == "cpu":  # torch 2.1 to 2.3
        return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None
    return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None


def autocast(*maps: Tensor) -> Tuple[Tensor, ...]:
    """Cast to autocast's dtype where it is on; float64 and integers stay, as with PyTorch's own operators."""
    dtype = autocast_dtype(maps[0].device.type)
    if dtype is None:
        return maps
    return tuple(t.to(dtype) if t.is_floating_point() and t.dtype != torch.float64 else t for t in maps)


def autocast_off(device: str) -> ContextManager:
    """A block of code that chooses its own precision, on a type of device."""
    return contextlib.nullcontext() if device == "meta" else torch.autocast(device, enabled=False)


def check_devices(x: Tensor, /, **others: Optional[Tensor]) -> None:
    """Raise the error that names a tensor which is on another device than the map ``x``."""
    for name, t in others.items():
        if t is not None and t.device != x.device:
            raise ValueError(f"{name} must be on the maps' device, {x.device}, got {t.device}")


def _on_device_of(x: Tensor) -> ContextManager:
    if x.device.type != "cuda" or x.device.index == torch.cuda.current_device():
        return contextlib.nullcontext()
    return torch.cuda.device(x.device)


def _specialization(argument: Any) -> Any:
    """What of an argument Triton may compile another kernel for."""
    if isinstance(argument, Tensor):
        return argument.dtype, argument.data_ptr() % 16 == 0
    if isinstance(argument, int):
        return argument == 1, argument % 16 == 0, argument >= 2**31
    return argument is None


class Launcher:
    """A Triton kernel, launched as ``launcher(grid, arguments, constants, num_warps=2)`` where its first argument is.

    ``arguments`` and then ``constants``, its constexprs, are all that it takes, in order. Triton's own launch takes
    longer than most kernels run, as it looks at all of them again; in the versions of Triton in DIRECT, a kernel is
    launched directly when one has been compiled for the like before.
    """

    DIRECT = ("3.6",)

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self.compiled: Dict[tuple, Any] = {}
        from triton import __version__

        version = ".".join(__version__.split(".")[:2])
        self.direct = version in self.DIRECT and os.environ.get("TRITON_INTERPRET") != "1"

    def __call__(
        self, grid: Tuple[int, int, int], arguments: tuple, constants: tuple, **options: Optional[int]
    ) -> None:
        device = arguments[0].device
        with _on_device_of(arguments[0]):
            if not self.direct:
                self.kernel[grid](*arguments, *constants, **options)
                return
            key = (device, constants, *options.items(), *map(_specialization, arguments))
            compiled = self.compiled.get(key)
            if compiled is None:
                self.compiled[key] = self.kernel[grid](*arguments, *constants, **options)
            else:
                compiled[grid](*arguments, *constants)


def register(schema: str, run: Callable, fake: Callable) -> None:
    """Make ``run`` an operator of ``torch.ops.mmsema`` on CUDA and the CPU (interpreted); ``fake`` gives the shapes."""
    name = schema.split("(")[0]
    _library.define(schema)
    for device in ("CPU", "CUDA"):
        _library.impl(name, run, device)
    if hasattr(torch.library, "register_fake"):  # since torch 2.4; older ones have a Triton too old for the kernels
        torch.library.register_fake(f"mmsema::{name}", fake)
