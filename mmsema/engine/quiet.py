"""Leave out what the hosts say about packages that are not used here, and about their own insides."""

import contextlib
import importlib
import io
import logging
import re
import warnings
from typing import Optional

WARNINGS = (
    r"Setting (OMP|MKL)_NUM_THREADS environment variable",  # mmengine: one thread a process is what is meant
    r"faster_coco_eval is not installed",  # mmdet: an evaluator beside pycocotools
    r"Grad strides do not match bucket view strides",  # torch: depthwise convolutions, on several processes
    r"Seems like `optimizer\.step\(\)` has been overridden",  # mmengine's schedulers: by CheckFinite
)
LOGGED = re.compile(
    '"FileClient" will be deprecated|"HardDiskBackend" is the alias'  # mmengine, of its own calls
    '|Failed to search registry with scope "mm[a-z]+" in the "function" registry tree'  # its collate functions
)
PRINTED = "Could not import OneDL"  # the maintained forks: a service for data sets


def ignore_known_warnings() -> None:
    """Call it before the hosts are imported."""
    for message in WARNINGS:
        warnings.filterwarnings("ignore", message)
    # Python 3.12 and later, once, when it compiles them; a file of the user's own is warned of
    warnings.filterwarnings("ignore", "invalid escape sequence", SyntaxWarning, r".*site-packages.mm\w+")


def is_news(record: logging.LogRecord) -> bool:
    """A filter for mmengine's loggers."""
    return not LOGGED.match(record.getMessage())


def import_datasets(host: Optional[str]) -> None:
    """Import the data sets of ``host`` ("mmdet", ...) where there are some, which the registries would do later."""
    if host is None:
        return
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.suppress(ImportError):
            importlib.import_module(f"{host}.datasets")
    finally:
        for line in printed.getvalue().splitlines():
            if not line.startswith(PRINTED):
                print(line)
