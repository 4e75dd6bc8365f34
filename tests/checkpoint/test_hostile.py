"""Checkpoints that would run code or delete files: each is shown to do so without our reader, then to do nothing."""

import argparse
import os
import warnings
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Callable, Tuple

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from mmengine.registry import MODELS, RUNNERS, init_default_scope
from mmengine.runner import FlexibleRunner, Runner, load_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader
from torch import nn

import mmsema.apis
from mmsema.checkpoint import CheckpointError, convert_mila, load_weights, publish_model, read, read_checkpoint
from mmsema.engine import test as run_test
from mmsema.engine import train as run_train

ROOT = Path(__file__).resolve().parents[2]
SMALL = dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1))
DETECTOR = ROOT / "configs/mask-rcnn_sema-pico_fpn_shapes.py"
CLASSIFIER = """
_base_ = {base!r}
model = dict(backbone=dict(arch=dict({arch!r}, _delete_=True)), head=dict(in_channels=64))
train_cfg = dict(_delete_=True, by_epoch=False, max_iters={iterations}, val_interval={iterations})
param_scheduler = None
train_dataloader = dict(batch_size=8)
val_dataloader = dict(batch_size=360)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=1, save_best={save_best!r}))
work_dir = {work_dir!r}
{more}
"""


class Call:
    """Unpickling it calls ``function(*arguments)``."""

    def __init__(self, function: Callable, *arguments) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple:
        return self.call


class Script(nn.Module):
    """A TorchScript module that writes a file while it is loaded."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def forward(self, x):
        return x

    @torch.jit.export
    def __getstate__(self) -> Tuple[str, bool]:
        return (self.path, self.training)

    @torch.jit.export
    def __setstate__(self, state: Tuple[str, bool]) -> None:
        self.path, self.training = state[0], state[1]
        torch.save(torch.zeros(1), self.path)


def text(canary: Path) -> str:
    """A config that makes the canary when it is executed."""
    return f"_ = __import__('os').mkdir({str(canary)!r})\n"


def config(folder: Path, iterations: int, save_best: str = None, more: str = "") -> Path:
    path = folder / "small.py"
    base, work_dir = str(ROOT / "configs/sema-pico_digits.py"), str(folder / "work")
    path.write_text(
        CLASSIFIER.format(
            base=base, arch=SMALL, iterations=iterations, save_best=save_best, work_dir=work_dir, more=more
        )
    )
    return path


def arguments(path: Path, **more) -> argparse.Namespace:
    common = dict(config=str(path), launcher="none", work_dir=None, cfg_options=[], audit=False)
    return argparse.Namespace(**common, amp=False, auto_scale_lr=False, out=None, show_dir=None, **more)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """mmengine looks for compilers and drivers before every run, and formats the config again and again: seconds."""
    monkeypatch.setattr(Config, "pretty_text", "")
    for runner in (Runner, FlexibleRunner):
        monkeypatch.setattr(runner, "_log_env", lambda *_: None)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A real checkpoint after one iteration, in which the hostile things are hidden."""
    folder = tmp_path_factory.mktemp("trained")
    run_train(arguments(config(folder, 1), resume=None))
    return folder / "work/iter_1.pth"


@pytest.fixture
def canary(tmp_path) -> Path:
    return tmp_path / "canary"


# where calls hide: every one runs at once when the file is unpickled without care
CALLS = {
    "at the top": lambda checkpoint, call: dict(state_dict=call),
    "among the weights": lambda checkpoint, call: checkpoint["state_dict"].update(zzz=call),
    "deep in meta": lambda checkpoint, call: checkpoint["meta"].update(a=[dict(b=(call,))]),
    "in the optimizer": lambda checkpoint, call: checkpoint["optimizer"]["state"].update({0: call}),
    "in the message hub": lambda checkpoint, call: checkpoint["message_hub"]["runtime_info"].update(a=call),
}


def hide(trained: Path, path: Path, where: str, call: Call, zipped: bool = True) -> Path:
    checkpoint = read_checkpoint(trained)
    checkpoint = CALLS[where](checkpoint, call) or checkpoint
    torch.save(checkpoint, path, _use_new_zipfile_serialization=zipped)
    return path


def is_refused(function: Callable, *arguments) -> None:
    with pytest.raises(CheckpointError, match="could run code") as error:
        function(*arguments)
    assert "\n" not in str(error.value)


@pytest.mark.scorecard("hostile")
@pytest.mark.parametrize("old_torch", [False, True])
@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("where", CALLS)
def test_calls_are_refused_wherever_they_hide(where, zipped, old_torch, trained, canary, tmp_path, monkeypatch):
    file = hide(trained, tmp_path / "hostile.pth", where, Call(os.mkdir, str(canary)), zipped)
    if old_torch:
        monkeypatch.setattr(read, "_TORCH_TAKES_ALLOWED", False)
    is_refused(read_checkpoint, file)
    assert not canary.exists()
    torch.load(file, weights_only=False)
    assert canary.exists()


@pytest.mark.scorecard("hostile")
@pytest.mark.parametrize("call", [(eval, "1"), (exec, "1"), (getattr, HistoryBuffer, "__init__")])
def test_stepping_stones_are_refused(call, trained, tmp_path):
    is_refused(read_checkpoint, hide(trained, tmp_path / "hostile.pth", "deep in meta", Call(*call)))


@pytest.mark.scorecard("hostile")
@pytest.mark.parametrize("old_torch", [False, True])
def test_scripts_are_refused(old_torch, canary, tmp_path, monkeypatch):
    file = tmp_path / "script.pth"
    torch.jit.script(Script(str(canary))).save(str(file))
    if old_torch:
        monkeypatch.setattr(read, "_TORCH_TAKES_ALLOWED", False)
    with pytest.raises(CheckpointError, match="it is a TorchScript archive, which holds code"):
        read_checkpoint(file)
    assert not canary.exists()
    torch.jit.load(str(file))
    assert canary.exists()


def initialize(settings: dict, scope: str, file: Path) -> None:
    init_default_scope(scope)
    MODELS.build(dict(settings, init_cfg=dict(type="Pretrained", checkpoint=str(file)))).init_weights()


def infer_with_mmdet(file: Path) -> None:
    from mmdet.apis import DetInferencer

    DetInferencer(str(DETECTOR), str(file), device="cpu")


def init_mmdet(file: Path) -> None:
    from mmdet.apis import init_detector

    init_detector(str(DETECTOR), str(file), device="cpu")


def infer_with_mmpretrain(file: Path) -> None:
    from mmpretrain import ImageClassificationInferencer

    init_default_scope("mmpretrain")
    ImageClassificationInferencer(str(ROOT / "configs/sema-pico_digits.py"), str(file), device="cpu")


def get_from_mmpretrain(file: Path) -> None:
    from mmpretrain import get_model

    init_default_scope("mmpretrain")
    get_model("sema-pico_digits", pretrained=str(file))


def run_of_mmengine(file: Path, **settings) -> None:
    """Any runner with our backbone, such as that of the hosts' own tools."""
    cfg = Config.fromfile(str(config(file.parent, 1)))
    cfg.train_dataloader.collate_fn = cfg.val_dataloader.collate_fn = dict(type="default_collate")
    cfg.test_dataloader.collate_fn = dict(type="default_collate")
    cfg.load_from, cfg.experiment_name = str(file), file.parent.parent.name + file.parent.name
    if "train_cfg" not in settings:
        cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    cfg.update(settings)
    (RUNNERS.build(cfg) if "runner_type" in cfg else Runner.from_cfg(cfg)).train()


# every way to a checkpoint; those of the hosts run the code when our reader is away
HOSTS = {
    "load_checkpoint": lambda file: load_checkpoint(nn.Linear(1, 1), str(file)),
    "Runner.load_checkpoint": run_of_mmengine,
    "Runner.resume": partial(run_of_mmengine, resume=True),
    "FlexibleRunner.resume": partial(run_of_mmengine, resume=True, runner_type="FlexibleRunner"),
    "init_cfg of mmpretrain": partial(initialize, dict(type="ResNet", depth=18), "mmpretrain"),
    "DetInferencer": infer_with_mmdet,
    "init_detector": init_mmdet,
    "ImageClassificationInferencer": infer_with_mmpretrain,
    "get_model": get_from_mmpretrain,
}
OURS = {
    "tools/train.py --resume": lambda file: run_train(arguments(config(file.parent, 1), resume=str(file))),
    "tools/test.py": lambda file: run_test(arguments(config(file.parent, 1), checkpoint=str(file))),
    "python -m mmsema": lambda file: mmsema.apis.predict(
        config(file.parent, 1), file, ROOT / "docs/images/heads.png", file.parent / "out", device="cpu"
    ),
    "init_cfg of SEMA": partial(initialize, dict(type="mmsema.SEMA", arch=SMALL), "mmdet"),
    "load_weights": lambda file: load_weights(nn.Linear(1, 1), file),
    "convert_mila.py": convert_mila,
    "publish_model.py": lambda file: publish_model(file, file.parent / "out.pth"),
}


@pytest.mark.scorecard("hostile")
@pytest.mark.slow
@pytest.mark.parametrize("way", [*HOSTS, *OURS])
def test_every_way_refuses(way, trained, canary, tmp_path, without_guard):
    file = hide(trained, tmp_path / "hostile.pth", "deep in meta", Call(os.mkdir, str(canary)))
    is_refused({**HOSTS, **OURS}[way], file)
    assert not canary.exists()
    if way in HOSTS:
        without_guard()
        with suppress(Exception), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            HOSTS[way](file)
        assert canary.exists()


@pytest.mark.scorecard("hostile")
@pytest.mark.parametrize("name", ["http", "torchvision://resnet18"])
def test_downloads_are_read_alike(name, server, trained, canary, tmp_path, without_guard):
    hide(trained, tmp_path / "hostile.pth", "deep in meta", Call(os.mkdir, str(canary)))
    name = server if name == "http" else name
    is_refused(load_checkpoint, nn.Linear(1, 1), name)
    assert not canary.exists()
    without_guard()
    load_checkpoint(nn.Linear(1, 1), name)
    assert canary.exists()


def infer_without_config(file: Path) -> None:
    from mmdet.apis import DetInferencer

    DetInferencer(weights=str(file), device="cpu")


# plain text, which every safe reader lets pass: where it lies, and who would execute it
TEXTS = {
    "Runner.resume": (("meta", "config"), HOSTS["Runner.resume"]),
    "FlexibleRunner.resume": (("meta", "config"), HOSTS["FlexibleRunner.resume"]),
    "inferencer, meta": (("meta", "cfg"), infer_without_config),
    "inferencer, message hub": (("message_hub", "runtime_info", "cfg"), infer_without_config),
}


@pytest.mark.scorecard("hostile")
@pytest.mark.slow
@pytest.mark.parametrize("way", TEXTS)
def test_text_is_never_executed(way, trained, canary, tmp_path, without_guard):
    (*keys, last), run = TEXTS[way]
    checkpoint = read_checkpoint(trained)
    for key in ("cfg", "config"):
        checkpoint["meta"].pop(key, None)
        checkpoint["message_hub"]["runtime_info"].pop(key, None)
    place = checkpoint
    for key in keys:
        place = place[key]
    place[last] = text(canary)
    file = tmp_path / "hostile.pth"
    torch.save(checkpoint, file)
    with suppress(AssertionError, ValueError):  # an inferencer without a config then says that it finds none
        run(file)
    assert not canary.exists()
    without_guard()
    with suppress(Exception):
        run(file)
    assert canary.exists()


def test_our_resume_executes_no_text(trained, canary, tmp_path):
    checkpoint = read_checkpoint(trained)
    checkpoint["meta"].update(config=text(canary), cfg=text(canary))
    torch.save(checkpoint, tmp_path / "hostile.pth")
    run_train(arguments(config(tmp_path, 2), resume=str(tmp_path / "hostile.pth")))
    assert (tmp_path / "work/iter_2.pth").is_file() and not canary.exists()


@pytest.mark.scorecard("hostile")
def test_nothing_outside_the_work_folder_is_deleted(trained, tmp_path, without_guard):
    """mmengine deletes the best checkpoint so far, be it a folder, when there is a better one."""
    victim = tmp_path / "victim"
    (victim / "deep").mkdir(parents=True)
    checkpoint = read_checkpoint(trained)
    checkpoint["message_hub"]["runtime_info"].update(best_ckpt=str(victim), best_score=-1.0, keep_ckpt_ids=["/../../x"])
    torch.save(checkpoint, tmp_path / "hostile.pth")
    validated = dict(train_cfg=dict(by_epoch=False, max_iters=2, val_interval=1), resume=True)
    hook = dict(type="CheckpointHook", by_epoch=False, interval=1, save_best="accuracy/top1")
    validated["default_hooks"] = dict(checkpoint=hook)
    run_of_mmengine(tmp_path / "hostile.pth", **validated)
    assert (tmp_path / "work/best_accuracy_top1_iter_2.pth").is_file() and (victim / "deep").is_dir()
    without_guard()
    run_of_mmengine(tmp_path / "hostile.pth", **validated)
    assert not victim.exists()


def test_what_resuming_needs_is_kept(trained, tmp_path):
    best = tmp_path / "best_accuracy_top1_iter_1.pth"
    checkpoint = read_checkpoint(trained)
    checkpoint["message_hub"]["runtime_info"].update(best_ckpt=str(best), best_score=50.0, keep_ckpt_ids=[1])
    torch.save(checkpoint, tmp_path / "iter_1.pth")
    loaded = CheckpointLoader.load_checkpoint(str(tmp_path / "iter_1.pth"))
    info = loaded["message_hub"]["runtime_info"]
    assert (info["best_ckpt"], info["best_score"], info["keep_ckpt_ids"]) == (str(best), 50.0, [1])
    assert loaded.keys() == checkpoint.keys() and "cfg" not in loaded["meta"]
