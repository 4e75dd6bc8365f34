"""SEMA backbones for OpenMMLab: ``backbone=dict(type='mmsema.SEMA')``."""

try:
    import mmengine  # noqa: F401
except ImportError as error:
    raise ImportError(
        "mmsema needs mmengine and found none that imports. Install one of the two stacks:\n"
        '  pip install "mmsema[onedl]"      maintained forks, recommended\n'
        '  pip install "mmsema[openmmlab]"  the official packages'
    ) from error

from .models import MILA, SEMA
from .version import __version__

__all__ = ["MILA", "SEMA", "__version__"]
