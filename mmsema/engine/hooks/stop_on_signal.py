"""Ctrl-C and SIGTERM: finish the iteration, save, and end, with no process left behind."""

import atexit
import multiprocessing
import os
import signal
import sys
import time
from functools import partial
from typing import Any, Callable, Optional

import torch
import torch.distributed as dist
from mmengine.dist import get_comm_device, is_main_process
from mmengine.hooks import EMAHook, Hook
from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from ...registry import HOOKS
from .whole_checkpoints import WholeCheckpointHook

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SAME = 1.0  # seconds within which a second signal is the first one, passed on by a launcher
GRACE = 30.0  # seconds that a worker goes on serving after a SIGTERM that was not for it alone


def end_workers() -> None:
    """End the processes that load data for this one."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # PyTorch's handler raises for each worker that ends
    workers = multiprocessing.active_children()
    for worker in workers:
        worker.kill()
    for worker in workers:
        worker.join()


def init_worker(init: Optional[Callable], worker: int) -> None:
    """Let a loader's worker outlive the signal that stops the run, so that the iteration gets its data."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process
    signal.signal(signal.SIGTERM, lambda *_: signal.setitimer(signal.ITIMER_REAL, GRACE))
    if init is not None:
        init(worker)


@HOOKS.register_module()
class StopOnSignal(Hook):
    """On SIGINT or SIGTERM, finish the iteration, save a checkpoint and exit with 130 or 143, as shells name them.

    A second signal ends the run at once. The checkpoint, ``interrupted.pth``, is what ``--resume`` goes on from; the
    next regular one replaces it. It is written by ``mmsema.WholeCheckpointHook``. During a validation the state before
    it is saved. Several processes agree on the iteration by one small reduction in each.
    """

    priority = "LOWEST"  # after schedulers, averages and regular checkpoints

    def __init__(self) -> None:
        self.signum = 0
        self.since = 0.0
        self.process = 0
        self.shared = 0  # iterations of a validation that every process has

    def before_run(self, runner: Runner) -> None:
        if runner._train_loop is None:  # testing
            return
        self.process = os.getpid()
        self.previous = {signum: signal.signal(signum, self._handle) for signum in SIGNALS}
        for loop in filter(None, (runner.train_loop, runner.val_loop)):
            self._shield(loop.dataloader)
        # before multiprocessing sends them a SIGTERM and waits, when this process ends
        atexit.unregister(end_workers)
        atexit.register(end_workers)

    @staticmethod
    def _shield(loader: DataLoader) -> None:
        loader.worker_init_fn = partial(init_worker, loader.worker_init_fn)

    def after_run(self, runner: Runner) -> None:
        for signum, handler in getattr(self, "previous", {}).items():
            signal.signal(signum, handler)

    def _handle(self, signum: int, frame: Any) -> None:
        if os.getpid() != self.process:
            return
        name = signal.Signals(signum).name
        if not self.signum:
            self.signum, self.since = signum, time.monotonic()
            print(f"{name}: finishing the iteration, then saving; a second one ends at once", file=sys.stderr)
        elif time.monotonic() - self.since > SAME:
            print(f"{name} again: ended without saving", file=sys.stderr, flush=True)
            end_workers()
            os._exit(128 + signum)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Optional[dict] = None
    ) -> None:
        loop = runner.train_loop
        wrapper = runner.optim_wrapper
        wrappers = wrapper.values() if isinstance(wrapper, OptimWrapperDict) else [wrapper]
        if not all(one.should_update() for one in wrappers if hasattr(one, "should_update")):
            return  # gradients of some batches are being accumulated
        self._stop_if_asked(runner, loop._epoch, loop._iter + 1)

    def before_val(self, runner: Runner) -> None:
        if self.process:  # samplers that do not round up give some a batch more
            self.shared = self._reduce(runner, len(runner.val_loop.dataloader), dist.ReduceOp.MIN)

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Any = None) -> None:
        if self.process and batch_idx < self.shared and self._asked(runner):
            for hook in runner.hooks:
                if isinstance(hook, EMAHook):
                    hook.after_val_epoch(runner)  # gives the model its own weights back
            self._stop_if_asked(runner, runner.train_loop._epoch, runner.train_loop._iter)

    def _asked(self, runner: Runner) -> int:
        """The signal that any process got, 0 for none."""
        return self._reduce(runner, self.signum, dist.ReduceOp.MAX)

    @staticmethod
    def _reduce(runner: Runner, number: int, operation: Any) -> int:
        """What ``operation`` makes of the numbers of all processes."""
        if not runner.distributed:
            return number
        shared = torch.tensor(number, device=get_comm_device())
        dist.all_reduce(shared, operation)
        return int(shared)

    def _stop_if_asked(self, runner: Runner, epoch: int, iteration: int) -> None:
        signum = self._asked(runner)
        if not signum:
            return
        saved = [
            hook.save_interrupted(runner, epoch, iteration)
            for hook in runner.hooks
            if isinstance(hook, WholeCheckpointHook)
        ]
        if runner.distributed:  # a launcher ends the others when the first one ends
            dist.barrier()
        if is_main_process():
            where = f"saved in {saved[0]}, go on with --resume" if saved else "not saved"
            print(f"{signal.Signals(signum).name}: stopped after iteration {iteration}, {where}", file=sys.stderr)
        end_workers()
        sys.exit(128 + signum)
