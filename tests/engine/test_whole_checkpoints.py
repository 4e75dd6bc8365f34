"""Faults while a checkpoint is written: whatever happens, one that loads is left, and resuming finds it."""

import logging
import os
import resource
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterator

import pytest
import torch
from mmengine.logging import MessageHub
from runs import At, digits, kill, losses, run

from mmsema.checkpoint import read_checkpoint
from mmsema.engine import WholeCheckpointHook
from mmsema.engine.hooks import whole_checkpoints
from mmsema.engine.resume import find_resumable

SHARES = (0, 0.001, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99, 0.9999)  # of the file that fit


@contextmanager
def file_size(limit: int) -> Iterator[None]:
    """No file of this process may grow beyond ``limit`` bytes: a write fails in its middle, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def broken(module, name: str, function: Callable) -> Iterator[None]:
    whole = getattr(module, name)
    setattr(module, name, function)
    try:
        yield
    finally:
        setattr(module, name, whole)


def fail(*_, **__) -> None:
    raise OSError(28, "No space left on device")


def cut(file: int) -> None:
    """A disk that says that all is well and has half of the file."""
    os.ftruncate(file, os.fstat(file).st_size // 2)


def cut_and_move(source, target) -> None:
    os.truncate(source, os.path.getsize(source) // 2)
    os.rename(source, target)


FAULTS = {
    **{f"disk full after {share:.2%} of the file": lambda size, s=share: file_size(int(s * size)) for share in SHARES},
    "disk full after all but a byte": lambda size: file_size(size - 1),
    "moving the file fails": lambda size: broken(os, "replace", fail),
    "flushing the file fails": lambda size: broken(os, "fsync", fail),
    "half of the file is lost": lambda size: broken(os, "fsync", cut),
    "half of the file is lost later": lambda size: broken(os, "replace", cut_and_move),
    "last_checkpoint cannot be written": lambda size: broken(whole_checkpoints.WholeFileBackend, "put_text", fail),
}


def plant(folder: Path, report: Path) -> Callable:
    """After the first epoch, in the run itself: every fault in turn, and what is left each time."""

    def act(runner) -> None:
        (hook,) = [hook for hook in runner.hooks if isinstance(hook, WholeCheckpointHook)]
        first, second = folder / "epoch_1.pth", folder / "epoch_2.pth"
        whole = first.read_bytes()
        hook._save(runner, second.name, dict(epoch=2, iter=4), by_epoch=True)
        size = second.stat().st_size
        for name, fault in FAULTS.items():
            second.unlink(missing_ok=True)
            (folder / "last_checkpoint").write_text(str(first))
            raised = False
            with fault(size):
                try:
                    hook._save_checkpoint_with_step(runner, 2, dict(epoch=2, iter=4))
                except OSError:
                    raised = True
            kept = raised and first.read_bytes() == whole and not list(folder.glob(".*.partial"))
            read_checkpoint(find_resumable(runner.cfg))
            with open(report, "a") as file:
                file.write(f"{'kept' if kept else 'lost'} {name}\n")

    return act


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict:
    """Whether the checkpoint before survived, by the fault's name: one run that meets them all."""
    folder = tmp_path_factory.mktemp("faults")
    cfg = digits(folder / "run")
    cfg.train_cfg.max_epochs = 1
    run(cfg, At("after_train", 4, plant(folder / "run", folder / "report")))
    lines = [line.split(" ", 1) for line in (folder / "report").read_text().splitlines()]
    return {name: kept == "kept" for kept, name in lines}


@pytest.mark.scorecard("write")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_checkpoint_survives(fault, outcomes):
    assert outcomes[fault]


@pytest.mark.slow
def test_full_disk_ends_the_run_in_one_line_and_it_goes_on_later(tmp_path):
    def fill(runner) -> None:
        if runner.epoch == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    output = run(digits(tmp_path / "run"), At("after_train_iter", 7, fill, "VERY_HIGH"), code=1)
    error = [line for line in output.splitlines() if line.startswith("error: ")]
    assert len(error) == 1 and "File too large" in error[0] and "traceback in" in error[0]
    assert "Traceback" not in output
    assert [path.name for path in (tmp_path / "run").glob("*.pth")] == ["epoch_1.pth"]
    run(digits(tmp_path / "run"), go_on="latest")
    assert len(losses(tmp_path / "run")) == 12


def validated(folder: Path):
    """Every validation is better than the one before: random weights, and a metric that counts."""
    cfg = digits(folder)
    other = type(cfg).fromfile(cfg.filename)
    cfg.val_dataloader, cfg.val_cfg, cfg.val_evaluator = other.val_dataloader, other.val_cfg, dict(type="Counting")
    cfg.val_dataloader.update(batch_size=8, num_batch_per_epoch=1, collate_fn=dict(type="default_collate"))
    cfg.default_hooks.checkpoint.update(save_best="count", rule="greater")
    return cfg


@pytest.mark.slow
def test_best_checkpoints_are_replaced_in_the_same_order(tmp_path):
    def lose_the_second(runner) -> None:
        if runner.epoch == 2:
            os.fsync = cut

    run(validated(tmp_path / "run"), code=0)
    names = sorted(path.name for path in (tmp_path / "run").glob("*.pth"))
    assert names == ["best_count_epoch_3.pth", "epoch_3.pth"]
    output = run(validated(tmp_path / "lost"), At("before_val", 8, lose_the_second), code=1)
    assert "was not written: what was read back" in output
    assert read_checkpoint(tmp_path / "lost/best_count_epoch_1.pth")
    assert read_checkpoint(tmp_path / "lost/epoch_2.pth")


class Saving:
    """As much of a runner as a checkpoint hook needs; its checkpoints hold nothing."""

    logger = logging.getLogger("no handlers")

    def __init__(self, folder: Path) -> None:
        self.work_dir, self.epoch, self.iter = str(folder), 0, 0
        self.message_hub = MessageHub(folder.name)

    def save_checkpoint(self, folder: str, filename: str, *_, **__) -> None:
        torch.save(dict(), Path(folder, filename))


def test_improvements_between_regular_checkpoints_leave_none_behind(tmp_path):
    """For a better one mmengine saves the epoch as well, which is one of those that ``max_keep_ckpts`` counts."""
    runner = Saving(tmp_path)
    hook = WholeCheckpointHook(interval=2, max_keep_ckpts=1, save_best="acc", rule="greater")
    hook.before_train(runner)
    (tmp_path / "interrupted.pth").touch()
    found = []
    for epoch, acc in ((1, 0.1), (2, 0.2), (3, 0.3), (4, 0.3), (5, 0.4)):
        if epoch % 2 == 0:
            hook._save_checkpoint(runner)
        runner.epoch = epoch
        hook.after_val_epoch(runner, dict(acc=acc))
        found.append(sorted(path.stem for path in tmp_path.glob("*.pth")))
    assert found == [
        ["best_acc_epoch_1", "interrupted"],  # there is no regular one yet that it could be saved in
        ["best_acc_epoch_2", "epoch_2"],
        ["best_acc_epoch_3", "epoch_3"],
        ["best_acc_epoch_3", "epoch_4"],
        ["best_acc_epoch_5", "epoch_5"],
    ]


def test_the_folder_is_closed_where_it_cannot_be_flushed(tmp_path):
    folders = []

    def refuse_folders(file: int) -> None:
        if stat.S_ISDIR(os.fstat(file).st_mode):
            folders.append(file)
            fail()

    with broken(os, "fsync", refuse_folders):
        whole_checkpoints.WholeFileBackend().put(b"whole", tmp_path / "a.pth")
    assert (tmp_path / "a.pth").read_bytes() == b"whole"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(*folders)


def test_remains_of_a_killed_write_are_removed(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".epoch_7.pth.partial").write_bytes(b"half")
    (folder / "notes.partial").write_text("mine")
    run(digits(folder), At("after_train_iter", 1, kill), code=-9)
    assert not (folder / ".epoch_7.pth.partial").exists() and (folder / "notes.partial").exists()
