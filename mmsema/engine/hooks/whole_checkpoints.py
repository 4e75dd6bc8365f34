"""Checkpoints that are written whole or not at all; the old one goes when the new one has been read back."""

import os
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Deque, Dict, Optional, Union

from mmengine.dist import is_main_process
from mmengine.fileio import LocalBackend, register_backend
from mmengine.hooks import CheckpointHook
from mmengine.runner import Runner

from ...checkpoint import CheckpointError, read_checkpoint
from ...registry import HOOKS

INTERRUPTED = "interrupted.pth"  # what a run saves that was asked to stop between its regular checkpoints


class WholeFileBackend(LocalBackend):
    """mmengine's backend for local files, whose files are whole at any moment: the old content or the new."""

    def put(self, obj: bytes, filepath: Union[str, Path]) -> None:
        path = Path(filepath)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        try:
            with open(partial, "wb") as file:
                file.write(obj)
                file.flush()
                os.fsync(file.fileno())
            if partial.read_bytes() != obj:
                raise OSError(f"{path} was not written: what was read back from {partial} differs")
            os.replace(partial, path)
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise
        with suppress(OSError):  # not every file system can
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def put_text(self, obj: str, filepath: Union[str, Path], encoding: str = "utf-8") -> None:
        self.put(obj.encode(encoding), filepath)


class _KeepAll(LocalBackend):
    """A file backend under which mmengine finds nothing to delete."""

    def isfile(self, filepath: Union[str, Path]) -> bool:
        return False

    isdir = isfile


@HOOKS.register_module()
class WholeCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook, which leaves a checkpoint that loads at whatever moment it is killed or the disk full.

    It takes the same arguments. Local files are written beside their place and moved there; ``last_checkpoint`` is
    written after the checkpoint could be read, and what ``max_keep_ckpts`` or a better ``best_*`` make superfluous is
    deleted last. That needs room for one more checkpoint on the disk.
    """

    file_backend: LocalBackend
    keep_ckpt_ids: Deque[int]

    def before_train(self, runner: Runner) -> None:
        register_backend("local", WholeFileBackend, prefixes="", force=True)
        super().before_train(runner)
        self.own_backend = self.file_backend
        if is_main_process():
            for partial in Path(self.out_dir).glob(".*.partial"):  # of a run that was killed
                partial.unlink()

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict) -> None:
        kept = list(self.keep_ckpt_ids) if self.max_keep_ckpts > 0 else []
        outdated = []
        if self.max_keep_ckpts > 0:
            if not kept or kept[-1] != step:
                kept.append(step)
            outdated, kept = kept[: -self.max_keep_ckpts], kept[-self.max_keep_ckpts :]
            runner.message_hub.update_info("keep_ckpt_ids", kept)
        self._save(runner, self.filename_tmpl.format(step), meta, self.by_epoch)
        self.keep_ckpt_ids = deque(kept)
        for old in outdated:
            self._remove(os.path.join(self.out_dir, self.filename_tmpl.format(old)))
        self._remove(os.path.join(self.out_dir, INTERRUPTED))

    def save_interrupted(self, runner: Runner, epoch: int, iteration: int) -> str:
        """Save the state after ``iteration`` iterations, in epoch ``epoch`` (from 0), and return the file's path."""
        self._save(runner, INTERRUPTED, dict(epoch=epoch, iter=iteration), by_epoch=False)
        return self.last_ckpt

    def _save(self, runner: Runner, name: str, meta: dict, by_epoch: bool) -> None:
        self.last_ckpt = os.path.join(self.out_dir, name)
        runner.message_hub.update_info("last_ckpt", self.last_ckpt)
        runner.save_checkpoint(
            self.out_dir,
            name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if is_main_process():
            self._read_back(self.last_ckpt)
            WholeFileBackend().put_text(self.last_ckpt, os.path.join(runner.work_dir, "last_checkpoint"))

    def _save_best_checkpoint(self, runner: Runner, metrics: dict) -> None:
        before = self._best()
        self.file_backend = _KeepAll()
        try:
            super()._save_best_checkpoint(runner, metrics)
        finally:
            self.file_backend = self.own_backend
        for indicator, new in self._best().items():
            old = before.get(indicator)
            if new and old and new != old and is_main_process():
                self._read_back(new)
                self._remove(old)

    def _best(self) -> Dict[str, Optional[str]]:
        """Path of the best checkpoint by every indicator."""
        if not self.save_best:
            return {}
        return dict(self.best_ckpt_path_dict) if len(self.key_indicators) > 1 else {"": self.best_ckpt_path}

    @staticmethod
    def _read_back(path: str) -> None:
        if os.path.isfile(path):  # shards of a model lie in a folder
            try:
                read_checkpoint(path)
            except CheckpointError as error:
                raise OSError(f"what was written does not read back, older checkpoints are kept: {error}") from error

    def _remove(self, path: str) -> None:
        if is_main_process():
            if self.own_backend.isfile(path):
                self.own_backend.remove(path)
            elif self.own_backend.isdir(path):  # shards
                self.own_backend.rmtree(path)
