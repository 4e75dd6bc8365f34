"""Whole backbones to time: SEMA beside those that a detector would otherwise use."""

import time
from contextlib import nullcontext
from functools import partial
from typing import Callable, ContextManager, Dict, List, Optional, Sequence, Tuple

import torch
from mmsema_kernels import use_backend
from torch import nn

from ..models import MILA, SEMA
from .report import Report, Row, reason
from .timing import captured, measured, peak_memory, relative_error, times


class OnKernel(nn.Module):
    """A backbone of ours on one backend."""

    def __init__(self, backbone: nn.Module, name: str) -> None:
        super().__init__()
        self.backbone, self.name = backbone, name

    def forward(self, x: torch.Tensor) -> Tuple[torch.Tensor, ...]:
        with use_backend(self.name):
            return self.backbone(x)


def swin_mmdet(H: int, W: int) -> nn.Module:
    from mmdet.models import SwinTransformer

    return SwinTransformer(convert_weights=False)


def timm_model(name: str, H: int, W: int) -> nn.Module:
    """A backbone of timm, in the memory format that is faster for it."""
    import timm

    size = dict(img_size=(H, W)) if name.startswith("swin") else {}
    model = timm.create_model(name, features_only=True, **size)
    return model if size else model.to(memory_format=torch.channels_last)


def sema(name: str, pad_value: Optional[float], H: int, W: int) -> nn.Module:
    torch.manual_seed(0)
    return OnKernel(SEMA("tiny", pad_value=pad_value), name)


def builders(device: str) -> Dict[str, Callable[[int, int], nn.Module]]:
    """The models by name. None but "SEMA-T, padding found" looks for padding: the others cannot."""
    default = "triton" if device == "cuda" else "torch"
    result: Dict[str, Callable[[int, int], nn.Module]] = {"SEMA-T": partial(sema, default, None)}
    if device == "cuda":
        result["SEMA-T, padding found"] = partial(sema, default, 0.0)
        result["SEMA-T without kernels"] = partial(sema, "torch", None)
    result["MILA-T"] = lambda H, W: OnKernel(MILA("tiny", pad_value=None), default)
    result["Swin-T (mmdet)"] = swin_mmdet
    result["Swin-T (timm)"] = partial(timm_model, "swin_tiny_patch4_window7_224")
    result["ConvNeXt-T (timm)"] = partial(timm_model, "convnext_tiny")
    return result


def parity(model: nn.Module, eager: nn.Module, x: torch.Tensor, precision: Callable[[], ContextManager]) -> str:
    """Empty where a model gives what ``eager`` gives in float32 on PyTorch's path for the same images; else why not."""
    with torch.no_grad():
        with use_backend("torch"):
            expected = eager(x)
        with precision():
            actual = model(x)
    error = relative_error(actual, expected)
    limit = 1e-4 if actual[0].dtype == torch.float32 and precision is nullcontext else 5e-2
    return "" if error <= limit else f"error={error:.1e} above {limit:.0e}: not timed"


def time_models(
    part: str,
    names: Sequence[str],
    batch: int,
    H: int,
    W: int,
    report: Report,
    rounds: int,
    backward: bool,
    how: str = "eager",
) -> None:
    """All backbones on the same images, one after the other in every round; in bfloat16 autocast on a GPU.

    ``how`` is "eager"; "graph", where each step is one CUDA graph: the device's time without the host's, which launches
    one kernel after the other and is often slower than they are; or "compiled", by torch.compile for these images.
    """
    device, dtype = report.device, torch.float32
    precision: Callable[[], ContextManager] = nullcontext
    if device == "cuda":
        dtype, precision = torch.bfloat16, partial(torch.autocast, "cuda", torch.bfloat16)
    x, shape = torch.randn(batch, 3, H, W, device=device), f"{batch}x3x{H}x{W}"
    models = {}
    for name in names:
        row = Row(part, "backbone", name, shape, str(dtype)[6:])
        try:
            model = builders(device)[name](H, W).to(device)
            model.eval()  # mmdet's Swin returns None
            eager = model.backbone if isinstance(model, OnKernel) else model
            if how == "compiled":  # without OnKernel, which changes os.environ: on the default backend
                model = torch.compile(eager, dynamic=False)
                row.note = parity(model, eager, x, precision)
            elif name.startswith("SEMA"):
                row.note = parity(model, eager, x[:1], precision)
        except Exception as error:
            row.note = f"not run: {reason(error)}"
        if row.note:
            report.add(row)
        else:
            models[name] = model

    def forward(model: nn.Module) -> None:
        with torch.no_grad(), precision():
            model(x)

    def both(model: nn.Module) -> None:
        with precision():
            outputs = model(x)
        sum(out.float().mean() for out in outputs).backward()
        model.zero_grad()

    for op, call in {"forward": forward, **({"forward+backward": both} if backward else {})}.items():
        calls: Dict[str, List[Callable[[], None]]] = {}
        memory = {}
        for name, model in models.items():
            try:  # the largest may not fit
                memory[name] = peak_memory(partial(call, model))
                calls[name] = [captured([partial(call, model)]) if how == "graph" else partial(call, model)]
            except Exception as error:
                report.add(Row(part, op, name, shape, str(dtype)[6:], note=f"FAILED: {reason(error)}"))
        began = time.process_time()
        taken = times(calls, device, rounds)
        share = (time.process_time() - began) / max(sum(map(sum, taken.values())) / 1e3, 1e-9)
        for name, milliseconds in taken.items():
            title = op if how == "eager" else f"{op}, {how}"
            row = Row(part, title, name, shape, str(dtype)[6:], memory_mb=memory[name])
            row.note = f"processors busy: {share:.2f} of {torch.get_num_threads()}" if device == "cpu" else ""
            report.add(measured(row, milliseconds))


def _run(
    part: str,
    settings: Sequence[tuple],
    names: Sequence[str],
    report: Report,
    backward: bool,
    ways: Sequence[str] = ("eager",),
) -> None:
    for *size, rounds in settings:
        for how in ways:
            if report.out_of_time():
                report.add(Row(part, "", "", "", "", note="the rest of this part was not run: out of time"))
                return
            try:
                time_models(part, names, *size, report, rounds, backward, how)
            except Exception as error:
                report.add(Row(part, "", "", "x".join(map(str, size)), "", note=f"FAILED: {reason(error)}"))
            if report.device == "cuda":
                torch.cuda.empty_cache()


def backbones(report: Report) -> None:
    """Images of 224 x 224 as in ImageNet, of 800 x 1333 as in COCO, of 2048 x 2048."""
    if report.device == "cpu":
        _run("backbone", [(4, 224, 224, 9), (1, 800, 1344, 5)], ["SEMA-T", "MILA-T", "Swin-T (mmdet)"], report, False)
        return
    settings = [(128, 224, 224, 10), (2, 800, 1333, 10), (16, 800, 1333, 5), (1, 2048, 2048, 10)]
    _run("backbone", settings, list(builders("cuda")), report, True, ("eager", "graph"))


def scaling(report: Report) -> None:
    """One image of growing size: linear in the number of pixels or not."""
    sides = (128, 256, 512) if report.device == "cpu" else (512, 1024, 2048, 3072, 4096)
    names = ["SEMA-T", "MILA-T", "Swin-T (mmdet)", "ConvNeXt-T (timm)"][: 2 if report.device == "cpu" else 4]
    ways = ("eager", "graph")[: 1 if report.device == "cpu" else 2]
    _run("scaling", [(1, side, side, 5) for side in sides], names, report, False, ways)


def compiled(report: Report) -> None:
    """Images of 224 x 224 through compiled backbones, one model after the other: compiling takes a minute or more."""
    for name in ("SEMA-T", "MILA-T", "Swin-T (timm)", "ConvNeXt-T (timm)"):
        _run("compiled", [(128, 224, 224, 10)], [name], report, True, ("compiled",))
