"""Training that, killed and resumed, goes on as if it had never stopped, whatever its workers draw at random.

mmengine brings weights, optimizer and schedule back. What is random is made a function of where it is drawn: every
sample of the seed, the process, the iteration and its place in the batch; every step of the seed, the process and the
iteration. So nothing of it has to be saved, and one worker or ten draw the same.
"""

import random
from itertools import count
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import numpy as np
import torch
from mmengine.dataset import InfiniteSampler
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader, Dataset, IterableDataset

from ...registry import HOOKS

Numbered = Tuple[Any, int, int]  # index of a sample, the iteration that takes it, its place in the batch


def set_seed(*numbers: int) -> None:
    """Seed Python, NumPy and PyTorch with a hash of non-negative integers."""
    seed = int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized() and not torch.cuda._is_in_bad_fork():
        torch.cuda.manual_seed_all(seed)


class SeededDataset(Dataset):
    """A data set whose samples draw the same random numbers in any process; only the loader's fetcher sees it."""

    def __init__(self, dataset: Dataset, seed: int, rank: int) -> None:
        self.dataset, self.seed, self.rank = dataset, seed, rank

    def __getitem__(self, numbered: Numbered) -> Any:
        index, iteration, place = numbered
        set_seed(self.seed, self.rank, iteration, place)
        return self.dataset[index]

    def __len__(self) -> int:
        return len(self.dataset)  # type: ignore[arg-type]  # those that are read by index have one


def sampler_of(loader: DataLoader) -> Any:
    """What draws the samples' indices; None where batches are not made of them."""
    return getattr(loader.batch_sampler, "sampler", None)


def _by_index(loader: DataLoader) -> bool:
    """Whether samples are read by index; PyTorch gives loaders of a stream a batch sampler, too."""
    return loader.batch_sampler is not None and not isinstance(loader.dataset, IterableDataset)


class NumberedBatches:
    """A batch sampler that says with every index which iteration takes it."""

    def __init__(self, batches: Any, start: Callable[[], Tuple[int, Iterator]]) -> None:
        self.batches, self.start = batches, start

    def __iter__(self) -> Iterator[List[Numbered]]:
        iteration, batches = self.start()
        for number, batch in zip(count(iteration), batches):
            yield [(index, number, place) for place, index in enumerate(batch)]

    def __len__(self) -> int:
        return len(self.batches)


class _Arrived:
    """An iteration-based loop's iterator that already stands where training stopped, so that the loop skips nothing."""

    def __init__(self, iterator: Iterator, to_skip: int) -> None:
        self.iterator, self.to_skip = iterator, to_skip

    def skip_iter(self, number: int) -> None:
        """What onedl-mmengine's loop calls; mmengine 0.10.7 takes ``to_skip`` batches and drops them."""
        self.to_skip = 0

    def __next__(self) -> Any:
        if self.to_skip:
            self.to_skip -= 1
            return None
        return next(self.iterator)


@HOOKS.register_module()
class ExactResume(Hook):
    """Make a resumed run's losses those of one that was never stopped: the same bits on a CPU.

    Works with epoch- and iteration-based loops, checkpoints within an epoch, and any number of workers. The data order
    is restored from the samplers' indices, without reading data. docs/reliability.md lists what it cannot restore.
    """

    priority = "VERY_HIGH"  # before hooks that draw random numbers

    def __init__(self) -> None:
        self.saved: Optional[Dict[str, Any]] = None  # what the resumed checkpoint says of the data
        self.to_skip = 0  # batches of the first epoch
        self.first: Optional[Iterator] = None  # batches of the first pass of an iteration-based loop

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        if runner._resume:
            self.saved = (checkpoint.get("meta") or {}).get("batches") or {}
            self._compare_schedules(runner, checkpoint)

    @staticmethod
    def _compare_schedules(runner: Runner, checkpoint: dict) -> None:
        new, old = getattr(runner, "param_schedulers", None), checkpoint.get("param_schedulers")
        if not (isinstance(new, list) and isinstance(old, list)):
            return
        for scheduler, state in zip(new, old, strict=False):
            for key in ("begin", "end", "T_max", "total_iters", "milestones"):
                wanted = vars(scheduler).get(key)
                if key in state and wanted != state[key]:
                    runner.logger.warning(
                        f"{type(scheduler).__name__}: {key} is {wanted} in the config and {state[key]} in the "
                        f"checkpoint, which counts: resuming cannot change a schedule, and after its end "
                        f"{scheduler.param_name} stays as it is; for a new schedule start from the weights (load_from)"
                    )

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        meta, loop = checkpoint["meta"], runner.train_loop
        if not _by_index(loop.dataloader):
            return
        done = meta["iter"] - self.epoch_start if meta["epoch"] == loop.epoch else 0
        meta["batches"] = dict(
            done=done, of=len(loop.dataloader), seed=getattr(sampler_of(loop.dataloader), "seed", None)
        )

    def before_train(self, runner: Runner) -> None:
        loop = runner.train_loop
        loader = loop.dataloader
        if loop.iter >= loop.max_iters:
            runner.logger.warning(
                f"nothing is left to train: iteration {loop.iter} of {loop.max_iters} is done; for more raise "
                "train_cfg.max_epochs or train_cfg.max_iters"
            )
        if not _by_index(loader):
            runner.logger.warning("exact resume needs samples by index, which this data loader does not have")
            return
        sampler = sampler_of(loader)
        if self.saved is not None:
            self._fit_to_data(runner, self.saved, len(loader))
            seed = self.saved.get("seed", self._drawn_seed(runner))
            if seed is not None and hasattr(sampler, "seed"):
                sampler.seed = seed  # its own may have been drawn anew
        # infinite ones may have been read from already
        if isinstance(sampler, InfiniteSampler):
            sampler.indices = sampler._indices_of_rank()
        elif hasattr(sampler, "source2inds"):  # mmdet's MultiSourceSampler
            sizes = map(len, sampler.dataset.datasets)
            sampler.source2inds = {source: sampler._indices_of_rank(size) for source, size in enumerate(sizes)}
        self._number(runner, loader)
        if hasattr(loop, "dataloader_iterator"):
            self._arrive(loop, loader, sampler)

    @staticmethod
    def _drawn_seed(runner: Runner) -> Optional[int]:
        """That of a sampler for which the config names none; for checkpoints that do not say it."""
        loader = runner.cfg.get("train_dataloader")
        named = isinstance(loader, dict) and "seed" in (loader.get("sampler") or {})
        return None if named or runner.cfg.get("randomness", {}).get("diff_rank_seed") else runner.seed

    def _fit_to_data(self, runner: Runner, saved: Dict[str, Any], batches: int) -> None:
        done, of = saved.get("done", 0), saved.get("of", batches)
        if of != batches:
            runner.logger.warning(
                f"an epoch has {batches} batches and had {of} when the checkpoint was written: training goes on, but "
                "not as it would have; the number of processes, the batch size and the data must be the same for that"
            )
        self.to_skip = done * batches // of

    def _number(self, runner: Runner, loader: DataLoader) -> None:
        """Have the loader's fetchers see :class:`SeededDataset`, and everyone else what they saw before."""
        create = loader._get_iterator
        own: Dict[str, Any] = dict(dataset=loader.dataset, batch_sampler=loader.batch_sampler)

        def start() -> Tuple[int, Iterator]:
            batches, self.first = self.first or iter(own["batch_sampler"]), None
            for _ in range(self.to_skip):
                next(batches, None)
            self.to_skip = 0
            return runner.train_loop._iter, batches

        def get_iterator() -> Iterator:
            seeded = SeededDataset(own["dataset"], runner.seed, runner.rank)
            vars(loader).update(dataset=seeded, batch_sampler=NumberedBatches(own["batch_sampler"], start))
            try:
                return create()
            finally:
                vars(loader).update(own)

        vars(loader).update(_get_iterator=get_iterator)

    def _arrive(self, loop: Any, loader: DataLoader, sampler: Any) -> None:
        """Go through the indices that an iteration-based loop had before the checkpoint."""
        sets: Any = loader.batch_sampler
        iterator, batches, passes = loop.dataloader_iterator, iter(sets), 0
        for _ in range(loop._iter):
            if next(batches, None) is None:
                passes += 1
                if hasattr(sampler, "set_epoch"):
                    sampler.set_epoch(passes)
                batches = iter(sets)
                next(batches)
        self.first, self.to_skip = batches, 0
        loader._iterator = None  # persistent workers that mmengine 0.10.7 has started already
        iterator._epoch, iterator._iterator = passes, iter(loader)
        loop.dataloader_iterator = _Arrived(iterator, 0 if hasattr(loop, "fast_forward_on_resume") else loop._iter)

    def before_train_epoch(self, runner: Runner) -> None:
        loop = runner.train_loop
        self.epoch_start = loop._iter - self.to_skip
        if self.to_skip:  # batches are counted from the epoch's start
            run_iter, skipped = loop.run_iter, self.to_skip
            loop.run_iter = lambda index, batch: run_iter(index + skipped, batch)

    def after_train_epoch(self, runner: Runner) -> None:
        self.epoch_start = runner.train_loop._iter
        vars(runner.train_loop).pop("run_iter", None)

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        set_seed(runner.seed, runner.rank, runner.train_loop._iter)
