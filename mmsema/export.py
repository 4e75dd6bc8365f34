"""Export a backbone or a classifier (ONNX, torch.export, TorchScript) and compare the file with the model.

One graph takes every batch size, height and width, as it holds ``mmsema_kernels``' padded path.
"""

import re
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Callable, List, NamedTuple, Optional, Sequence, Tuple, Union

import torch
from mmengine.registry import MODELS, init_default_scope
from mmsema_kernels import use_backend
from rich.progress import track
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .apis import PathLike, read_config
from .checkpoint import load_weights
from .engine import UsageError
from .engine.errors import require_folder

SUFFIXES = dict(onnx=".onnx", torch_export=".pt2", torchscript=".pt")
PARTS = ("backbone", "model")
OLDEST_TORCH = (2, 11)  # of which torch.export and the ONNX exporter built on it have been tried
TRACED = (2, 3, 75, 118)  # the pictures that an exporter sees
CHECKED = ((1, 3, 224, 224), (3, 3, 97, 131), (1, 3, 64, 256), (2, 3, 33, 30), (1, 3, 5, 23), (1, 3, 1, 1))
TRANSPOSING = (Tensor.permute, Tensor.transpose)
TOLERANCE = 1e-4  # largest absolute difference that the tool accepts


class Parity(NamedTuple):
    """The exported file beside the model, for one random batch."""

    shape: Tuple[int, ...]
    largest: float  # absolute value among the model's outputs
    difference: float  # largest absolute one


class _Logits(nn.Module):
    """A classifier's scores before softmax."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, image: Tensor) -> Tensor:  # (B, 3, H, W) -> (B, classes)
        return self.classifier(image, mode="tensor")


class _PlainLayout(TorchFunctionMode):
    """Give every transposed map strides of its own.

    On channels_last maps torch.export otherwise asks what their strides are when a side is 1, and from then on refuses
    batches, maps or rows of one.
    """

    def __torch_function__(
        self, function: Callable, types: Any, args: Tuple = (), kwargs: Optional[dict] = None
    ) -> Any:
        if function is Tensor.contiguous:
            return args[0].clone(memory_format=torch.contiguous_format)
        result = function(*args, **(kwargs or {}))
        return result.clone(memory_format=torch.contiguous_format) if function in TRANSPOSING else result


def build(config: PathLike, checkpoint: Optional[str] = None, part: str = "backbone") -> nn.Module:
    """The part of a config's model that is to be exported, in eval mode; without a checkpoint its weights are random.

    Args:
        config: path of a config, or name of one that mmsema ships.
        checkpoint: of the whole model or of the backbone; it must have every tensor of the part.
        part: "backbone", or "model" for a classifier.
    """
    cfg = read_config(config)
    if "backbone" not in cfg.get("model", {}):
        raise UsageError(f"config {config} has no model with a backbone")
    init_default_scope(cfg.get("default_scope", "mmengine"))
    if part == "backbone":
        module = MODELS.build(cfg.model.backbone)
    elif cfg.model.type.endswith("ImageClassifier"):
        module = MODELS.build(cfg.model)
    else:
        raise UsageError(
            f"--part model exports ImageClassifier only, {config} has {cfg.model.type}, whose heads call operators "
            "without an exported form; export its backbone with --part backbone"
        )
    if checkpoint is not None:
        load_weights(module, checkpoint, min_matched=1.0)
    module.eval().requires_grad_(False)
    return _Logits(module) if part == "model" else module


def _export_program(module: nn.Module) -> torch.export.ExportedProgram:
    if tuple(map(int, re.findall(r"\d+", torch.__version__)[:2])) < OLDEST_TORCH:
        raise UsageError(f"this format needs torch {'.'.join(map(str, OLDEST_TORCH))} or newer, there is "
                         f"{torch.__version__}; --format torchscript does not")  # fmt: skip
    from torch.fx.experimental import _config

    dynamic = torch.export.Dim.DYNAMIC
    # by default sizes of 0 and 1 count as special, and a graph traced with larger ones refuses them
    with _config.patch(backed_size_oblivious=True), _PlainLayout():  # type: ignore[attr-defined]
        return torch.export.export(
            module, (torch.zeros(TRACED),), dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},)
        )


def _export_onnx(module: nn.Module, out: Path) -> None:
    with torch.no_grad():
        outputs = module(torch.zeros(TRACED))
    names = ["logits"] if isinstance(outputs, Tensor) else [f"map{i}" for i in range(len(outputs))]
    torch.onnx.export(
        _export_program(module),
        f=out,
        dynamo=True,
        input_names=["image"],
        output_names=names,
        external_data=False,
        verbose=False,
    )


def export(module: nn.Module, out: PathLike, format: str) -> None:
    """Write ``module``, in eval mode, to the file ``out``.

    Args:
        module: takes pictures (B, 3, H, W), normalised as the config's data preprocessor does it, and returns one
            tensor or a tuple of them.
        out: ends in the format's suffix.
        format: a key of ``SUFFIXES``.

    Raises:
        UsageError: the suffix is another one, or a package is missing or too old.
    """
    out = Path(out)
    if out.suffix != SUFFIXES[format]:
        raise UsageError(f"--out must end in {SUFFIXES[format]} for --format {format}, got {out}")
    missing = [name for name in ("onnx", "onnxruntime", "onnxscript") if format == "onnx" and find_spec(name) is None]
    if missing:
        raise UsageError(f'--format onnx needs {", ".join(missing)}, not installed: pip install ".[export]"')
    require_folder("--out", out.parent)
    out.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings(), torch.no_grad(), use_backend("padded"):
        warnings.simplefilter("ignore")  # that argument checks are not part of a trace, and the exporters' own
        if format == "torchscript":
            torch.jit.trace(module, torch.zeros(TRACED), check_trace=False).save(str(out))
        elif format == "torch_export":
            torch.export.save(_export_program(module), out)
        else:
            _export_onnx(module, out)


def load(out: PathLike, format: str) -> Callable[[Tensor], Union[Tensor, Tuple[Tensor, ...]]]:
    """What :func:`export` wrote, as a function of pictures."""
    if format == "torchscript":
        return torch.jit.load(str(out))
    if format == "torch_export":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that torch maps the file read-only
            return torch.export.load(out).module()
    import onnxruntime

    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    return lambda image: tuple(torch.from_numpy(a) for a in session.run(None, {"image": image.numpy()}))


def _largest(outputs: Sequence[Tensor]) -> float:
    """The largest absolute value; not a number where one of them is none, which Python's max would pass over."""
    return torch.stack([t.abs().max() for t in outputs]).max().item()


def compare(module: nn.Module, out: PathLike, format: str, shapes: Sequence[Tuple[int, ...]] = CHECKED) -> List[Parity]:
    """Run the file and ``module`` on normally distributed pictures of every shape; reads the file again for that."""
    run, rows = load(out, format), []
    for shape in track(shapes, description="comparing", transient=True):
        image = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            pairs = [(t,) if isinstance(t, Tensor) else t for t in (module(image), run(image))]
        for expected, actual in zip(*pairs, strict=True):
            if expected.shape != actual.shape:
                raise ValueError(f"for {shape} the file gives {tuple(actual.shape)}, the model {tuple(expected.shape)}")
        rows.append(Parity(shape, _largest(pairs[0]), _largest([a - b for a, b in zip(*pairs, strict=True)])))
    return rows
