"""SEMA backbones for OpenMMLab: ``backbone=dict(type='mmsema.SEMA')``."""

import sys

from .version import __version__

__all__ = ["MILA", "SEMA", "__version__"]

# ``python -m mmsema.collect_env`` imports this file first, and must run where mmengine or torch do not import
if "mmsema.collect_env" not in sys.orig_argv:
    try:
        import mmengine  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "mmsema needs mmengine and found none that imports. Install one of the two stacks:\n"
            '  pip install ".[onedl]"      maintained forks, recommended\n'
            '  pip install ".[openmmlab]"  the official packages\n'
            "or ask what is wrong with this environment: python -m mmsema.collect_env"
        ) from error

    from .checkpoint import read_safely
    from .models import MILA, SEMA

    read_safely()
