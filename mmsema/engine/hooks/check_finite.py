"""Stop before a loss or gradient that is no number reaches the weights."""

from typing import Any, Dict, List, Optional

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import Tensor, nn

from ...registry import HOOKS


class NotFiniteError(RuntimeError):
    """A loss or gradient that is NaN or infinite; its text is one line with iteration, loss terms and pictures."""


def pictures(batch: Any, most: int = 8) -> str:
    """The files of a batch as the hosts pack them, else the samples' numbers: ``a.jpg, b.jpg``."""
    samples = batch.get("data_samples") if isinstance(batch, dict) else None
    names: List[str] = []
    for sample in samples or []:
        known = getattr(sample, "metainfo", {})
        names.append(str(known.get("img_path") or known.get("img_id", known.get("sample_idx", "?"))))
    if not names:
        return "unknown"
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def not_finite(parameters: List[nn.Parameter]) -> bool:
    """Whether any gradient has NaN or infinity; the largest magnitude tells, which cannot overflow."""
    gradients = [p.grad.coalesce().values() if p.grad.is_sparse else p.grad for p in parameters if p.grad is not None]
    gradients = [gradient for gradient in gradients if gradient.numel()]
    if not gradients:
        return False
    return not all(bool(norm.isfinite()) for norm in _largest(gradients))


def _largest(gradients: List[Tensor]) -> List[Tensor]:
    by_device: Dict[torch.device, List[Tensor]] = {}
    for norm in torch._foreach_norm(gradients, float("inf")):
        by_device.setdefault(norm.device, []).append(norm.float())
    return [torch.stack(norms).sum() for norms in by_device.values()]


@HOOKS.register_module()
class CheckFinite(Hook):
    """Raise :class:`NotFiniteError` on a loss or gradient that is NaN or infinite, before the optimizer's step.

    A hook after the iteration would be too late, so the optimizer wrapper's methods are wrapped. In several processes
    the gradients tell all of them in the same step. With loss scaling (AMP) an overflow is usual: the scaler skips the
    step; it is counted, and only ``max_skipped`` in a row are an error.

    Args:
        max_skipped: steps in a row that may be skipped.
    """

    priority = "VERY_HIGH"

    def __init__(self, max_skipped: int = 20) -> None:
        self.max_skipped = max_skipped
        self.skipped_in_a_row = self.skipped = 0
        self.terms: Dict[str, Tensor] = {}
        self.batch: Any = None
        self.loss_problem: Optional[str] = None

    def before_train(self, runner: Runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        wrapper = runner.optim_wrapper
        if not hasattr(wrapper, "optimizer") or not hasattr(model, "parse_losses"):
            runner.logger.warning(
                "losses and gradients are not checked: the model or the optimizer wrapper is none of mmengine's kind"
            )
            return
        parse, update, step = model.parse_losses, wrapper.update_params, wrapper.step
        self.names = {parameter: name for name, parameter in model.named_parameters()}

        def parse_losses(losses: dict) -> tuple:
            total, self.terms = parse(losses)
            return total, self.terms

        def update_params(loss: Tensor, *args: Any, **kwargs: Any) -> None:
            self.loss_problem = None
            if not bool(loss.detach().isfinite().all()):
                self.loss_problem = self._describe(runner, "the loss is not finite")
                if not runner.distributed:
                    raise NotFiniteError(self.loss_problem)
            update(loss, *args, **kwargs)
            if self.loss_problem:  # its gradients were finite or are still being accumulated
                raise NotFiniteError(self.loss_problem)

        def checked_step(**kwargs: Any) -> None:
            parameters = [p for group in wrapper.optimizer.param_groups for p in group["params"]]
            if not_finite(parameters):
                self._on_gradients(runner, wrapper, parameters)
            else:
                self.skipped_in_a_row = 0
            step(**kwargs)

        model.parse_losses, wrapper.update_params, wrapper.step = parse_losses, update_params, checked_step

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        self.batch = data_batch

    def _on_gradients(self, runner: Runner, wrapper: Any, parameters: List[nn.Parameter]) -> None:
        scaler = getattr(wrapper, "loss_scaler", None)
        if scaler is None or not scaler.is_enabled():
            raise NotFiniteError(self.loss_problem or self._describe(runner, self._gradients(parameters)))
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row > self.max_skipped:
            text = f"{self.skipped_in_a_row} steps in a row overflowed, loss scale {scaler.get_scale():g}"
            raise NotFiniteError(self._describe(runner, text))
        runner.logger.warning(
            f"step {runner.iter + 1} overflowed and is skipped, {self.skipped_in_a_row} in a row, {self.skipped} in all"
        )

    def _gradients(self, parameters: List[nn.Parameter]) -> str:
        wrong = [p for p in parameters if p.grad is not None and not_finite([p])]
        return f"{len(wrong)} of {len(parameters)} gradients are not finite, first {self.names.get(wrong[0], '?')}"

    def _describe(self, runner: Runner, what: str) -> str:
        terms = ", ".join(f"{name}={float(value.detach()):.4g}" for name, value in self.terms.items())
        return (
            f"iteration {runner.iter + 1}: {what}; {terms}; pictures: {pictures(self.batch)}; the weights are those "
            f"after iteration {runner.iter}, nothing is saved"
        )
