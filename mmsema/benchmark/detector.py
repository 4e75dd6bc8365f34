"""Training steps of Mask R-CNN on image files: SEMA-T with its kernels, without them, and Swin-T."""

from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple
from unittest import mock

import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.hub import get_config
from mmengine.logging import MMLogger
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.runner import set_random_seed
from mmsema_kernels import use_backend
from torch import Tensor

from ..hub import data_folder
from .report import Report, Row, reason
from .timing import measured, peak_memory, relative_error, times

SEMA_T = "configs/mask-rcnn_sema-t_fpn_1x_coco.py"
SWIN_T = "mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py"
SIZE = (1333, 800)  # width and height of an image
BATCHES = 4  # that steps go through
Batch = Dict[str, Any]


def read(name: str) -> Config:
    """A config of ours or of mmdet, for the shapes and from random weights.

    RoIAlign is torchvision's, as in our configs; stochastic depth is off, which would skip blocks of one model only.
    """
    from ..datasets.shapes import CLASSES

    cfg = get_config(name) if "::" in name else Config.fromfile(data_folder() / name)
    cfg.model.backbone.update(init_cfg=None, drop_path_rate=0.0)
    roi_head = cfg.model.roi_head
    roi_head.bbox_head.num_classes = roi_head.mask_head.num_classes = len(CLASSES)
    for extractor in (roi_head.bbox_roi_extractor, roi_head.mask_roi_extractor):
        extractor.roi_layer.use_torchvision = True
    return cfg


@contextmanager
def torchvision_operators() -> Iterator[None]:
    """NMS and the masks' RoIAlign from torchvision: mmcv's are not always built for CUDA."""
    import torchvision.ops
    from mmcv.ops.nms import ext_module
    from mmdet.structures.mask import structures

    def suppress(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
        return torchvision.ops.nms(boxes.float(), scores.float(), iou_threshold)

    def align(
        maps: Tensor, rois: Tensor, size: Tuple[int, int], scale: float, sampling: int, mode: str, aligned: bool
    ) -> Tensor:
        return torchvision.ops.roi_align(maps, rois, size, scale, sampling, aligned)

    with mock.patch.object(ext_module, "nms", suppress), mock.patch.object(structures, "roi_align", align):
        yield


def load(folder: Path, count: int, size: Tuple[int, int]) -> List[Batch]:
    """Draw ``count`` JPEG files and read them as SEMA-T's config does, each exactly ``size``, (width, height)."""
    from ..datasets.shapes import CLASSES, make_shapes

    make_shapes(folder, dict(train=count))
    cfg = read(SEMA_T)
    init_default_scope("mmdet")
    dataset = cfg.train_dataloader.dataset
    dataset.update(
        data_root=str(folder),
        ann_file="annotations/instances_train.json",
        data_prefix=dict(img="train/"),
        metainfo=dict(classes=CLASSES),
    )
    for transform in dataset.pipeline:
        if transform["type"] == "Resize":
            transform.update(scale=size, keep_ratio=False)
    images = DATASETS.build(dataset)
    set_random_seed(0)
    return [images[i] for i in range(len(images))]


def build(cfg: Config, device: str) -> BaseModel:
    """The detector in training, from the same random state every time."""
    init_default_scope("mmdet")
    MMLogger.get_current_instance().setLevel("WARNING")  # it says of every parameter how it was initialised
    set_random_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    return model.to(device).train()


def on_device(model: BaseModel, images: Sequence[Batch]) -> Batch:
    """A batch, normalised and padded as the detector does it."""
    return model.data_preprocessor(pseudo_collate(images), True)


def losses(model: BaseModel, batch: Batch, backend: str, dtype: torch.dtype) -> Tuple[Tensor, Dict[str, Tensor]]:
    """Their sum, and each by its name; in autocast unless ``dtype`` is float32."""
    device = batch["inputs"].device.type
    with torchvision_operators(), use_backend(backend), torch.autocast(device, dtype, enabled=dtype != torch.float32):
        return model.parse_losses(model(**batch, mode="loss"))


def compare(model: BaseModel, batch: Batch, backends: Sequence[str], dtype: torch.dtype) -> str:
    """Relative differences between two backends of every loss and of all gradients of the backbone together."""
    seen = []
    for backend in backends:
        set_random_seed(0)
        model.zero_grad()
        total, logs = losses(model, batch, backend, dtype)
        total.backward()
        gradients = [p.grad.flatten() for p in model.backbone.parameters() if p.grad is not None]
        seen.append({name: value.detach() for name, value in logs.items() if "loss" in name})
        seen[-1]["gradients of the backbone"] = torch.cat(gradients)
    actual, expected = seen
    return ", ".join(f"{name} {relative_error([actual[name]], [expected[name]]):.1e}" for name in expected)


def time_steps(
    models: Dict[str, Tuple[Config, str]],
    images: Sequence[Batch],
    batch_size: int,
    dtype: torch.dtype,
    report: Report,
    rounds: int,
) -> None:
    """Steps of training, forward, backward and AdamW's; ``models`` gives config and backend of each by its name."""
    shape = "x".join(map(str, (batch_size, *images[0]["inputs"].shape)))
    calls: Dict[str, Sequence[Callable[[], object]]] = {}
    memory = {}

    def step(model: BaseModel, optimizer: torch.optim.Optimizer, backend: str, batch: Batch) -> None:
        loss, _ = losses(model, batch, backend, dtype)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    for name, (cfg, backend) in models.items():
        try:
            model = build(cfg, report.device)
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.05)
            batches = [images[i : i + batch_size] for i in range(0, len(images), batch_size)][:BATCHES]
            steps = [partial(step, model, optimizer, backend, on_device(model, batch)) for batch in batches]
            steps[0]()  # allocates what the optimizer keeps
            memory[name] = peak_memory(steps[0])
            calls[name] = steps
        except Exception as error:
            report.add(Row("detector", "step", name, shape, str(dtype)[6:], note=f"FAILED: {reason(error)}"))
    for name, milliseconds in times(calls, report.device, rounds).items():
        row = Row("detector", "step", name, shape, str(dtype)[6:], memory_mb=memory[name])
        row.note = f"{1e3 / median(milliseconds):.2f} steps a second"
        report.add(measured(row, milliseconds))


def detector(report: Report) -> None:
    """Kernels against PyTorch's path on the same images, then the speed of training at 2 and 8 images a step."""
    sema, swin = read(SEMA_T), read(SWIN_T)
    with TemporaryDirectory() as folder:
        images = load(Path(folder), 8 * BATCHES, SIZE)
    model = build(sema, report.device)
    batch = on_device(model, images[:2])
    for dtype in (torch.float32, torch.bfloat16):
        row = Row("detector", "losses and gradients", "SEMA-T, kernels against none", "2x3x800x1333", str(dtype)[6:])
        try:
            row.note = f"relative differences: {compare(model, batch, ('triton', 'torch'), dtype)}"
        except Exception as error:
            row.note = f"FAILED: {reason(error)}"
        report.add(row)
    del model, batch
    models = {"SEMA-T": (sema, "triton"), "SEMA-T without kernels": (sema, "torch"), "Swin-T (mmdet)": (swin, "auto")}
    for batch_size in (2, 8):
        if report.out_of_time():
            report.add(Row("detector", "", "", "", "", note="the rest of this part was not run: out of time"))
            return
        time_steps(models, images, batch_size, torch.bfloat16, report, rounds=3)
        torch.cuda.empty_cache()
