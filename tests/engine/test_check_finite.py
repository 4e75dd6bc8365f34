"""Losses and gradients that are no numbers: stopped before the weights change, with the pictures named."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.distributed as dist
from commands import free_port
from mmcv.transforms import TRANSFORMS, BaseTransform
from mmengine.optim import OptimWrapper
from runs import At, digits, losses, run, shapes
from torch import nn

from mmsema.checkpoint import read_checkpoint
from mmsema.engine import CheckFinite
from mmsema.engine.hooks import NotFiniteError
from mmsema.engine.hooks.check_finite import not_finite, pictures


@TRANSFORMS.register_module()
class BreakPicture(BaseTransform):
    """Makes one picture infinite, as a broken sensor's file would."""

    def __init__(self, name: str) -> None:
        self.name = name

    def transform(self, results: dict) -> dict:
        if results["img_path"].endswith(self.name):
            results["img"] = np.full_like(results["img"], np.inf, dtype=np.float32)
        return results


def break_loss(runner) -> None:
    """From now on one term of the loss is NaN."""
    model, forward = runner.model, runner.model.loss

    def loss(*args, **kwargs):
        found = forward(*args, **kwargs)
        return {**found, "loss_broken": found["loss"] * float("nan")}

    model.loss = loss


def break_gradient(runner) -> None:
    """From now on one gradient is infinite, though the loss is not."""
    name, parameter = next((n, p) for n, p in runner.model.named_parameters() if n.endswith("head.fc.bias"))
    parameter.register_hook(lambda gradient: gradient / 0)


def watch_steps(runner, folder: Path) -> None:
    """Leave a file if the optimizer takes a step from now on."""
    optimizer = runner.optim_wrapper.optimizer
    step = optimizer.step
    optimizer.step = lambda *args, **kwargs: ((folder / "stepped").touch(), step(*args, **kwargs))


@pytest.mark.parametrize(
    "plant, words",
    [
        (break_loss, ["the loss is not finite", "loss_broken=nan"]),
        (break_gradient, ["1 of", "gradients are not finite, first head.fc.bias"]),
    ],
)
def test_training_stops_before_the_step(plant, words, tmp_path):
    folder = tmp_path / "run"
    hook = At("before_train_iter", 5, lambda runner: (plant(runner), watch_steps(runner, folder)))
    output = run(digits(folder), hook, code=1)
    (error,) = [line for line in output.splitlines() if line.startswith("error: ")]
    for word in [*words, "iteration 6: ", "loss=", "pictures: ", "after iteration 5", "traceback in"]:
        assert word in error
    assert len(losses(folder)) == 5 and not (folder / "stepped").exists()
    assert [path.name for path in folder.glob("*.pth") if "epoch" in path.name] == ["epoch_1.pth"]
    assert all(tensor.isfinite().all() for tensor in read_checkpoint(folder / "epoch_1.pth")["state_dict"].values())


def test_the_pictures_of_a_detector_are_named(tmp_path):
    cfg = shapes(tmp_path / "run")
    cfg.train_dataloader.dataset.pipeline.insert(4, dict(type="mmengine.BreakPicture", name="000003.jpg"))
    output = run(cfg, code=1)
    (error,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert "the loss is not finite" in error and "loss_rpn_cls=" in error and "000003.jpg" in error


def runner_of(model: nn.Module, wrapper: OptimWrapper, distributed: bool = False) -> SimpleNamespace:
    warned = []
    logger = SimpleNamespace(warning=warned.append)
    return SimpleNamespace(
        model=model, optim_wrapper=wrapper, iter=0, distributed=distributed, logger=logger, warned=warned
    )


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(3))

    def parse_losses(self, found: dict) -> tuple:
        return sum(found.values()), found


class Scaler:
    """What a GradScaler does, on any device: it skips steps whose gradients overflowed."""

    def is_enabled(self) -> bool:
        return True

    def get_scale(self) -> float:
        return 65536.0


class ScaledWrapper(OptimWrapper):
    """As AmpOptimWrapper, which wants a GPU."""

    loss_scaler = Scaler()

    def step(self, **kwargs) -> None:
        if all(bool(p.grad.isfinite().all()) for group in self.optimizer.param_groups for p in group["params"]):
            super().step(**kwargs)


def test_overflows_are_counted_and_too_many_are_an_error():
    model = Line()
    wrapper = ScaledWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    runner, hook = runner_of(model, wrapper), CheckFinite()
    hook.before_train(runner)

    def step(factor: float) -> None:
        loss, _ = model.parse_losses(dict(loss=(model.w * torch.tensor([1.0, 1.0, 0.0])).sum()))
        handle = model.w.register_hook(lambda gradient: gradient * factor)
        wrapper.update_params(loss)
        handle.remove()

    for _ in range(20):
        step(float("inf"))
    assert torch.equal(model.w, torch.ones(3)) and hook.skipped == hook.skipped_in_a_row == 20
    assert runner.warned[-1] == "step 1 overflowed and is skipped, 20 in a row, 20 in all"
    step(1.0)
    assert hook.skipped_in_a_row == 0 and hook.skipped == 20 and not torch.equal(model.w, torch.ones(3))
    for _ in range(20):
        step(float("nan"))
    with pytest.raises(NotFiniteError, match="21 steps in a row overflowed, loss scale 65536"):
        step(float("nan"))


@pytest.mark.gpu
def test_overflows_of_the_real_scaler_are_counted():
    from mmengine.optim import AmpOptimWrapper

    model = Line().cuda()
    wrapper = AmpOptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=0.1), loss_scale="dynamic")
    hook = CheckFinite()
    hook.before_train(runner_of(model, wrapper))
    before = model.w.detach().clone()
    model.w.register_hook(lambda gradient: gradient * float("inf"))
    wrapper.update_params(model.parse_losses(dict(loss=model.w.sum()))[0])
    assert hook.skipped == 1 and torch.equal(model.w, before)


def test_large_gradients_are_no_fault():
    parameter = nn.Parameter(torch.ones(4))
    for value, wrong in ((3e38, False), (float("inf"), True), (float("nan"), True), (0.0, False)):
        parameter.grad = torch.full((4,), value)
        assert not_finite([parameter]) == wrong
    parameter.grad = None
    assert not not_finite([parameter]) and not not_finite([])


def test_pictures_of_any_batch():
    sample = SimpleNamespace(metainfo=dict(img_path="a.jpg"))
    assert pictures(dict(data_samples=[sample] * 10)) == ", ".join(["a.jpg"] * 8) + " and 2 more"
    assert pictures(dict(data_samples=[SimpleNamespace(metainfo=dict(sample_idx=5))])) == "5"
    assert pictures([1, 2]) == pictures(None) == pictures(dict(data_samples=None)) == "unknown"


def worker(rank: int, port: int, folder: Path) -> None:
    """Rank 1's loss is NaN; both must stop, in the same step."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    model = Line()
    text = "went on"
    wrapper = OptimWrapper(torch.optim.SGD(model.parameters(), lr=0.1))
    CheckFinite().before_train(runner_of(model, wrapper, distributed=True))
    loss, _ = model.parse_losses(dict(loss=model.w.sum() * (float("nan") if rank else 1.0)))
    model.w.register_hook(lambda gradient: (dist.all_reduce(gradient), gradient)[1])  # as DDP does
    try:
        wrapper.update_params(loss)
    except NotFiniteError as error:
        text = str(error)
    changed = not torch.equal(model.w, torch.ones(3))
    (folder / f"{rank}").write_text(f"{changed} {text}")


def test_all_processes_stop_in_the_same_step(tmp_path):
    port = free_port()
    torch.multiprocessing.start_processes(worker, (port, tmp_path), nprocs=2, start_method="fork")
    first, second = (tmp_path / "0").read_text(), (tmp_path / "1").read_text()
    assert first.startswith("False iteration 1: 1 of 1 gradients are not finite, first w")
    assert second.startswith("False iteration 1: the loss is not finite; loss=nan")
