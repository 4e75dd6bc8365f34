"""Signals, dead workers and dead processes: the run ends within seconds, with a checkpoint that loads and no orphan."""

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Callable

import pytest
import torch
import torch.distributed as dist
from commands import free_port
from mmcv.transforms import TRANSFORMS, BaseTransform
from mmengine.config import Config
from mmengine.optim import OptimWrapperDict, build_optim_wrapper
from mmengine.registry import MODELS, OPTIM_WRAPPER_CONSTRUCTORS
from mmpretrain.models import ImageClassifier
from runs import BATCHES, EPOCHS, ROOT, SMALL, At, digits, digits_by_iteration, fork, losses, run, wait

from mmsema.checkpoint import read_checkpoint
from mmsema.engine import StopOnSignal
from mmsema.engine.resume import check_resumable

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


@TRANSFORMS.register_module()
class Misbehave(BaseTransform):
    """Goes wrong at one picture, in the worker that loads it."""

    def __init__(self, how: str) -> None:
        self.how, self.count = how, 0

    def transform(self, results: dict) -> dict:
        self.count += 1
        if self.count == 14:  # of the fourth batch, asked for after the first iteration
            if self.how == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            elif self.how == "hangs":
                time.sleep(1000)
            raise KeyError("gt_label of a broken annotation")
        return results


def no_process_is_left(group: int, seconds: float = 3) -> bool:
    """Whether the processes of a run that has ended, which share a group, have all ended."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    os.killpg(group, signal.SIGKILL)
    return False


def send(signum: int, to_all: bool) -> Callable:
    """To this process, or to its workers as well, as a terminal or a batch system does."""
    return lambda runner: os.killpg(0, signum) if to_all else os.kill(os.getpid(), signum)


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("whole")
    run(digits(folder / "run"))
    return losses(folder / "run")


@pytest.mark.slow
@pytest.mark.parametrize(
    "signum, workers, to_all",
    [
        (signal.SIGTERM, "2p", True),
        pytest.param(signal.SIGINT, "2", True, marks=pytest.mark.long),
        pytest.param(signal.SIGINT, "0", False, marks=pytest.mark.long),
        pytest.param(signal.SIGTERM, "2", False, marks=pytest.mark.slow),
    ],
)
def test_signal_saves_and_ends(signum, workers, to_all, never_stopped, tmp_path):
    folder = tmp_path / "run"
    pid = fork(digits(folder, workers), At("before_train_iter", 5, send(signum, to_all)))
    assert wait(pid) == CODES[signum], (folder / "output").read_text()[-2000:]
    assert no_process_is_left(pid)
    output = (folder / "output").read_text()
    assert "stopped after iteration 6, saved in" in output and "Traceback" not in output
    assert (folder / "last_checkpoint").read_text() == str(folder / "interrupted.pth")
    meta = read_checkpoint(folder / "interrupted.pth")["meta"]
    assert (meta["epoch"], meta["iter"]) == (1, 6)
    assert meta["batches"] == dict(done=2, of=BATCHES, seed=meta["seed"])
    run(digits(folder, workers), go_on="latest")
    assert losses(folder) == never_stopped and not (folder / "interrupted.pth").exists()


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class EachPart:
    """An optimizer for each part of a model."""

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg=None) -> None:
        self.parts = {name: part for name, part in optim_wrapper_cfg.items() if isinstance(part, dict)}

    def __call__(self, model: torch.nn.Module) -> OptimWrapperDict:
        return OptimWrapperDict(
            **{name: build_optim_wrapper(getattr(model, name), part) for name, part in self.parts.items()}
        )


@MODELS.register_module()
class TwoSteps(ImageClassifier):
    def train_step(self, data: dict, optim_wrapper: OptimWrapperDict) -> dict:
        data = self.data_preprocessor(data, True)
        for wrapper in optim_wrapper.values():
            loss, terms = self.parse_losses(self._run_forward(data, mode="loss"))
            wrapper.update_params(loss)
        return terms


def several_optimizers(folder: Path) -> Config:
    cfg = digits(folder)
    cfg.model.type = "mmengine.TwoSteps"
    cfg.optim_wrapper = dict(
        constructor="mmengine.EachPart",
        backbone=dict(optimizer=dict(type="AdamW", lr=1e-3)),
        head=dict(optimizer=dict(type="SGD", lr=0.1), accumulative_counts=2),
    )
    return cfg


@pytest.mark.slow
def test_several_optimizers_train_stop_and_go_on(tmp_path):
    stop = At("before_train_iter", 4, send(signal.SIGTERM, False))
    output = run(several_optimizers(tmp_path / "run"), stop, code=143)
    assert "stopped after iteration 6, saved in" in output  # in the fifth one the head's gradients are not complete
    run(several_optimizers(tmp_path / "run"), go_on="latest")
    assert len(losses(tmp_path / "run")) == BATCHES * EPOCHS


@pytest.mark.long
def test_iteration_based_training_is_saved_alike(tmp_path):
    run(digits_by_iteration(tmp_path / "whole"))
    run(digits_by_iteration(tmp_path / "run"), At("after_train_iter", 7, send(signal.SIGTERM, False)), code=143)
    run(digits_by_iteration(tmp_path / "run"), go_on="latest")
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def validated(folder: Path) -> Config:
    cfg = digits(folder)
    other = Config.fromfile(cfg.filename)
    cfg.val_dataloader, cfg.val_cfg, cfg.val_evaluator = other.val_dataloader, other.val_cfg, other.val_evaluator
    cfg.val_dataloader.update(batch_size=4, num_batch_per_epoch=3, collate_fn=dict(type="default_collate"))
    cfg.custom_hooks = [dict(type="EMAHook", momentum=0.1)]
    cfg.default_hooks.checkpoint.interval = 2
    return cfg


@pytest.mark.long
def test_signal_during_validation_saves_what_was_before_it(tmp_path):
    """Averaged weights are in the model then, and must not be saved as its own."""
    run(validated(tmp_path / "whole"))
    run(validated(tmp_path / "run"), At("before_val_iter", BATCHES, send(signal.SIGTERM, False)), code=143)
    run(validated(tmp_path / "run"), go_on="latest")
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def validate(rank: int, port: int, folder: Path) -> None:
    """A validation of which rank 1 has a batch more, then one in which it gets a signal."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    loops = dict(val_loop=SimpleNamespace(dataloader=range(2 + rank)), train_loop=SimpleNamespace(_epoch=0, _iter=4))
    runner, hook = SimpleNamespace(distributed=True, hooks=[], **loops), StopOnSignal()
    hook.process = os.getpid()
    for signum in (0, signal.SIGTERM):
        hook.before_val(runner)
        for batch in runner.val_loop.dataloader:
            hook.signum = signum if rank == batch == 1 else 0
            try:
                hook.after_val_iter(runner, batch)
            except SystemExit as end:
                (folder / f"{rank}").write_text(f"{end.code} after batch {batch}, asked by {signum}")
                return


def test_processes_with_different_numbers_of_batches_validate_and_stop_together(tmp_path):
    torch.multiprocessing.start_processes(validate, (free_port(), tmp_path), nprocs=2, start_method="fork")
    assert [(tmp_path / f"{rank}").read_text() for rank in (0, 1)] == ["143 after batch 1, asked by 15"] * 2


@pytest.mark.slow
def test_second_signal_ends_at_once(tmp_path):
    """An iteration that takes forever."""
    folder = tmp_path / "run"

    def forever(runner) -> None:
        (folder / "there").touch()
        end = time.monotonic() + 1000
        while time.monotonic() < end:
            time.sleep(0.1)

    pid = fork(digits(folder, "2"), At("before_train_iter", 5, forever))
    end = time.monotonic() + 60
    while not (folder / "there").exists():
        assert time.monotonic() < end, (folder / "output").read_text()
        time.sleep(0.05)
    os.kill(pid, signal.SIGTERM)
    time.sleep(1.5)
    os.kill(pid, signal.SIGTERM)
    assert wait(pid, 5) == 143 and no_process_is_left(pid)
    assert "SIGTERM again: ended without saving" in (folder / "output").read_text()


INTERRUPTED = """
import os, signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a process in the background does not have
from common import make_parser, parse
parse(make_parser("a tool"))
os.kill(os.getpid(), signal.SIGINT)
"""


def test_ctrl_c_outside_training_ends_in_one_line():
    """While a tool imports or builds what it needs, or tests: nothing is there that could be saved."""
    command = [sys.executable, "-c", INTERRUPTED, "config.py"]
    done = subprocess.run(command, cwd=ROOT / "tools", capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "SIGINT: ended\n")


def test_ctrl_c_is_no_fault_of_the_config(monkeypatch):
    """mmengine makes a SyntaxError of whatever comes while it formats one, which takes seconds."""

    def formats(_) -> None:
        try:
            raise KeyboardInterrupt
        except BaseException as error:
            try:
                raise SyntaxError("Failed to format the config file") from error
            except Exception as wrapped:  # so does run_or_fail
                raise RuntimeError("a run that failed") from wrapped

    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    with pytest.raises(KeyboardInterrupt):
        importlib.import_module("common").run(formats, SimpleNamespace(traceback=False))


@pytest.mark.slow
@pytest.mark.parametrize(
    "how, words",
    [
        ("raises", "KeyError: 'gt_label of a broken annotation'"),
        pytest.param("killed", "DataLoader worker (pid", marks=pytest.mark.long),
        pytest.param("hangs", "timed out after 3 seconds", marks=pytest.mark.slow),
    ],
)
def test_bad_worker_ends_the_run(how, words, tmp_path):
    folder = tmp_path / "run"
    cfg = digits(folder, "2p")
    cfg.train_dataloader.timeout = 3
    cfg.train_dataloader.dataset.pipeline.insert(0, dict(type="mmengine.Misbehave", how=how))
    cfg.train_dataloader.num_workers = 1
    cfg.default_hooks.checkpoint = dict(type="CheckpointHook", by_epoch=False, interval=1, max_keep_ckpts=1)
    pid = fork(cfg)
    assert wait(pid) == 1 and no_process_is_left(pid)
    output = (folder / "output").read_text()
    (error,) = [line for line in output.splitlines() if line.startswith("error: ")]
    assert words in error and "traceback in" in error and "Traceback" not in output
    check_resumable((folder / "last_checkpoint").read_text())


TWO = """
_base_ = {base!r}
model = dict(backbone=dict(arch=dict({arch!r}, _delete_=True), drop_path_rate=0.3), head=dict(in_channels=64))
train_dataloader = dict(batch_size=4, num_batch_per_epoch={batches})
train_cfg = dict(max_epochs={epochs}, val_interval=100)
default_hooks = dict(checkpoint=dict(interval=1, max_keep_ckpts=1), logger=dict(interval=1))
randomness = dict(seed=3)
work_dir = {work_dir!r}
custom_imports = dict(imports=["mmsema", "two_processes"])
custom_hooks = [dict(type="mmengine.Planted")]
"""
PLANTED = """
import os, signal
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class Planted(Hook):
    priority = "HIGHEST"

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        with open(os.path.join(runner.work_dir, f"losses{runner.rank}"), "a") as file:
            file.write(f"{runner.iter} {float(outputs['loss']).hex()}\\n")

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        what = os.environ.get("PLANTED")
        if what and runner.iter == 6:
            open(os.path.join(runner.work_dir, "planted"), "w").close()
            if what == "dies" and runner.rank == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            if what == "stop" and runner.rank == 0:  # as the launcher does on a signal of its own
                os.kill(os.getppid(), signal.SIGTERM)
"""


def two_processes(folder: Path, what: str = "", *options) -> subprocess.CompletedProcess:
    """torch.distributed.run of tools/train.py, as a user types it."""
    folder.mkdir(exist_ok=True)
    base = str(ROOT / "configs/sema-pico_digits.py")
    text = TWO.format(base=base, arch=SMALL, batches=BATCHES, epochs=EPOCHS, work_dir=str(folder / "work"))
    (folder / "two.py").write_text(text)
    (folder / "two_processes.py").write_text(PLANTED)
    port = free_port()
    command = ["torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}", ROOT / "tools/train.py"]
    command += [folder / "two.py", "--launcher", "pytorch", *options]
    path = f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    environment = dict(os.environ, OMP_NUM_THREADS="1", PYTHONPATH=path, PLANTED=what)
    return subprocess.run(
        [sys.executable, "-m", *map(str, command)], env=environment, capture_output=True, text=True, timeout=300
    )


def losses_of(folder: Path) -> list:
    found = [dict(line.split() for line in (folder / f"work/losses{rank}").read_text().splitlines()) for rank in (0, 1)]
    assert len(found[0]) == len(found[1]) == BATCHES * EPOCHS
    return found


@pytest.mark.long
def test_two_processes(tmp_path):
    """A dead one ends the other; a signal to the launcher saves; both go on to the losses of a run never stopped."""
    done = two_processes(tmp_path / "whole")
    assert done.returncode == 0, done.stderr[-3000:]
    for what in ("dies", "stop"):
        done = two_processes(tmp_path / what, what)
        took = time.time() - (tmp_path / what / "work/planted").stat().st_mtime
        assert done.returncode != 0 and took < 45, f"{took:.0f} seconds"  # the launcher gives 30
        newest = Path((tmp_path / what / "work/last_checkpoint").read_text())
        assert newest.name == dict(dies="epoch_1.pth", stop="interrupted.pth")[what], done.stderr[-3000:]
        check_resumable(str(newest))
        done = two_processes(tmp_path / what, "", "--resume")
        assert done.returncode == 0, done.stderr[-3000:]
        assert losses_of(tmp_path / what) == losses_of(tmp_path / "whole")
