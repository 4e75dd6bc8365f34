"""Have the runner refuse checkpoints that do not fit the model."""

from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from ...checkpoint import match_weights
from ...registry import HOOKS


@HOOKS.register_module()
class CheckWeights(Hook):
    """Compare a checkpoint that is being loaded with the model before anything is written into it.

    Args:
        min_matched: share of the model's tensors that it must have.
    """

    priority = "VERY_LOW"  # after hooks that rename what is in the checkpoint, such as EMAHook

    def __init__(self, min_matched: float) -> None:
        self.min_matched = min_matched

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        chosen, report = match_weights(model.state_dict(), checkpoint, min_matched=self.min_matched)
        kept = checkpoint.get("state_dict", {})
        if any(name not in kept or name.startswith("module") for name in chosen):
            # under the model's names, from which mmengine's own revise_keys takes "module" and one character more
            checkpoint["state_dict"] = {f"module.{name}": tensor for name, tensor in chosen.items()}
        runner.logger.info(str(report))
