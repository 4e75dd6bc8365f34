"""Names of parameters without what wrappers add to them."""

import re


def plain_name(name: str) -> str:
    """Without ``module.`` at its start, and without what torch.compile, FSDP and checkpointing put in anywhere.

    ``module.backbone._orig_mod.stem.conv1.0.weight`` -> ``backbone.stem.conv1.0.weight``.
    """
    name = re.sub(r"(^|\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)(?=\.)", "", name).lstrip(".")
    return re.sub(r"^(module\.)+", "", name)
