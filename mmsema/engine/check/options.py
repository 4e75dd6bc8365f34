"""--cfg-options: parsed, compared with the config that they change, and merged into it."""

from pathlib import Path
from typing import Any, List, Optional, Sequence

from mmengine.config import Config, DictAction

from .places import ANYTHING, SETTINGS, TOP
from .registries import did_you_mean, find
from .signature import arguments_of, wants_text


def merge_options(cfg: Config, options: Sequence[str]) -> List[str]:
    """Merge ``KEY=VALUE`` texts into a config; a line for each that does not fit, which is left out.

    What ``_delete_`` removes is what the file has, wherever it stands among the options, as in mmengine.
    """
    lines = []
    for option in sorted(options, key=lambda option: "._delete_=" not in option):
        key, equals, text = option.partition("=")
        if not equals or not all(key.split(".")):
            lines.append(f"--cfg-options takes KEY=VALUE, got {option!r}{_split_hint(option)}")
            continue
        try:
            value = DictAction._parse_iterable(text)
        except AssertionError:
            lines.append(f"--cfg-options {key}: brackets do not match in {text!r}{_split_hint(text)}")
            continue
        problem = _problem(cfg, key, value)
        if problem is None:
            try:
                cfg.merge_from_dict({key: value})
                continue
            except (KeyError, TypeError, IndexError) as error:
                problem = " ".join(str(error).split())[:200]
        lines.append(f"--cfg-options {key}: {problem}")
    return lines


def _split_hint(text: str) -> str:
    return "; a value with spaces needs quotes" if set(text) & set("[]()") else ""


def _problem(cfg: Config, key: str, value: Any) -> Optional[str]:
    """What is wrong with an option, as far as the config itself can tell; the key check says what else is unknown."""
    names = key.split(".")
    top = names[0]
    if top not in cfg and top not in SETTINGS and top not in TOP:
        return f"the config has no {top}{did_you_mean(top, {*cfg, *SETTINGS})}"
    if top in cfg and top not in SETTINGS and top not in TOP:
        return f"{top} is a variable of the config file, used up when it was read; set what it went into"
    here, above = cfg, None
    for depth, name in enumerate(names):
        path = ".".join(names[:depth])
        if isinstance(here, (list, tuple)):
            if not name.isdigit() or int(name) >= len(here):
                return f"{path} is a list of {len(here)}, its index must be a number below that, got {name!r}"
            here, above = here[int(name)], None
        elif isinstance(here, (dict, Config)):
            if name not in here:
                return None  # new: whether anything takes it is for the key check
            here, above = here[name], here
        elif here is None:
            return f"{path} is None in the config and has no {name}; set it in the config file"
        else:
            return f"{path} is {here!r} and has no {name}"
    may_be_text = isinstance(here, bool) or isinstance(here, dict) and "type" not in here
    if may_be_text and isinstance(value, str) and above is not None:
        target = find(above.get("type"), ANYTHING, cfg.get("default_scope") or "mmengine")
        if target is not None and wants_text(arguments_of(target).named.get(names[-1])):
            return None
    return _wrong_kind(names[-1], here, value)


def _wrong_kind(name: str, old: Any, new: Any) -> Optional[str]:
    if old is None or new is None:
        return None
    if isinstance(old, dict):
        return None if isinstance(new, dict) else f"is a dict in the config, got {new!r}; name a key in it"
    if isinstance(old, (list, tuple)) and any(isinstance(item, dict) for item in old):
        return None if isinstance(new, (list, tuple)) else f"is a list of dicts in the config, got {new!r}"
    if isinstance(old, (list, tuple)) and isinstance(new, str):
        if not old or not all(isinstance(item, str) for item in old):
            return f"is a list in the config, got {new!r}"
        if name == "classes" and "://" not in new and not Path(new).is_file():
            return f"is a list in the config, got {new!r}, which is no file of names either"
    if isinstance(old, bool) and not isinstance(new, (bool, int)):
        return f"is True or False in the config, got {new!r}"
    if isinstance(old, (int, float)) and isinstance(new, str) and new != "dynamic":  # loss_scale
        return f"is a number in the config, got {new!r}"
    return None
