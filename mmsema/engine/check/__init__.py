"""The config check: what is wrong with a config, all at once, before anything is built or any data is read.

docs/config_check.md lists what is checked and what is not.
"""

import os
from typing import List, Sequence, Tuple

from mmengine.config import Config

from ..errors import ConfigFaults
from .channels import check_channels
from .classes import check_classes
from .keys import check_keys
from .options import merge_options
from .reading import do_imports, read
from .values import check_values, missing_parts
from .work_dir import problem_of_work_dir

__all__ = ["check_config", "do_imports", "find_faults", "merge_options", "missing_parts", "problem_of_work_dir", "read"]

SWITCH = "MMSEMA_CONFIG_CHECK"  # an environment variable: it reaches every tool and every process of a launcher

_passed = set()  # configs of this process that had no faults


def find_faults(cfg: Config, imports_failed: bool = False) -> List[str]:
    """One line for each fault of a config; ``imports_failed`` says that types may be missing because of that."""
    if not cfg.get("model"):
        return [f"{cfg.filename}: the config has no model"]
    found: List[Tuple[str, str]] = check_keys(cfg)
    blamed = [path for path, _ in found]
    if imports_failed:
        found = [(path, text) for path, text in found if not path.endswith("type")]
    found += check_values(cfg)
    scope = cfg.get("default_scope") or "mmengine"
    if "default_scope" not in blamed:
        found += check_channels(cfg.model, scope, blamed) + check_classes(cfg)
    lines: List[str] = []
    seen = set()
    for path, text in found:
        key = path.split(".", 1)[-1] if "_dataloader" in path or "_evaluator" in path else path
        if (key, text) not in seen:  # test_dataloader = val_dataloader, train_pipeline for several data sets
            lines.append(f"{path}: {text}")
        seen.add((key, text))
    return lines


def check_config(cfg: Config, lines: Sequence[str] = ()) -> None:
    """Raise :class:`ConfigFaults` if anything is wrong with a config.

    Args:
        cfg: as the runner gets it, options merged.
        lines: what is known to be wrong already.
    """
    if os.environ.get(SWITCH) == "off":
        if lines:
            raise ConfigFaults(lines)
        return
    key = repr(cfg)
    if not lines and key in _passed:
        return
    imports_failed = any(line.startswith("custom_imports") for line in lines)
    lines = [*lines, *find_faults(cfg, imports_failed)]
    if lines:
        raise ConfigFaults(lines)
    _passed.add(key)
