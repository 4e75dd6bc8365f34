"""Read a config file and say in one line what keeps it from being read: file, line, and what may have been meant."""

import ast
import importlib
import pkgutil
import re
import sys
import traceback
from pathlib import Path
from typing import List, Optional, Sequence, Tuple

from mmengine.config import Config

from ..errors import ConfigFaults, UsageError
from .registries import did_you_mean, near


def locate(path: Path) -> None:
    """Raise :class:`UsageError` if ``path`` is no config file, with the nearest that is."""
    if path.is_dir():
        raise UsageError(f"config {path} is a folder, name a .py file in it")
    if not path.is_file():
        folder = path.parent if path.parent.is_dir() else Path(".")
        found = near(path.name, (one.name for one in folder.glob("*.py")))
        raise UsageError(f"config {path} is not a file" + (f"; did you mean {path.parent / found}?" if found else ""))
    if path.suffix != ".py":
        raise UsageError(f"config must be a .py file, got {path}")


def _bases(tree: ast.Module, path: Path) -> Tuple[List[str], int]:
    """The names of the base configs and the line they are in."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_base_":
            try:
                value = ast.literal_eval(node.value)
            except ValueError:
                return [], node.lineno
            names = [value] if isinstance(value, str) else value
            if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
                raise UsageError(f"{path}:{node.lineno}: _base_ must be a file name or a list of them, got {value!r}")
            return list(names), node.lineno
    return [], 0


def look_at(path: Path, above: Tuple[Path, ...] = ()) -> List[str]:
    """Lines on what cannot be parsed or found, in a config file and those that it inherits from."""
    try:
        text = path.read_text(encoding="utf-8")
        # mmengine's templates, such as {{$VARIABLE:default}}, are no Python
        tree = ast.parse(re.sub(r"\{\{.*?\}\}", "0", text))
    except UnicodeDecodeError:
        return [f"{path}: is not UTF-8 text"]
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None) or 1
        source = (text.splitlines() or [""])[min(line, len(text.splitlines())) - 1].strip()
        return [f"{path}:{line}: {getattr(error, 'msg', error)}: {source[:80]}"]
    faults: List[str] = []
    names, line = _bases(tree, path)
    for name in names:
        base = _base_path(name, path)
        if base is None:
            package = name.split("::")[0]
            faults.append(f"{path}:{line}: base config {name}: no package {package} with configs is installed")
        elif not base.is_file():
            siblings = base.parent.glob("*.py") if base.parent.is_dir() else ()
            found = near(base.name, (one.name for one in siblings))
            hint = f"; did you mean {name[: len(name) - len(Path(name).name)]}{found}?" if found else ""
            faults.append(f"{path}:{line}: base config {name} does not exist{hint}")
        elif base.resolve() in (*above, path.resolve()):
            faults.append(f"{path}:{line}: base config {name} inherits from this file itself")
        elif base.suffix == ".py":
            faults += look_at(base, (*above, path.resolve()))
    return faults


def _base_path(name: str, path: Path) -> Optional[Path]:
    if "::" not in name:
        return path.parent / name
    try:
        return Path(Config._get_cfg_path(name, str(path))[0])
    except FileNotFoundError as error:
        found = re.search(r"(/[^\s'\"]+\.py)", str(error))
        return Path(found[1]) if found else path.parent / name
    except Exception:
        return None


def _place(error: BaseException, path: Path) -> str:
    """File and line of the config that an error came from."""
    modules = {getattr(module, "__file__", None) for module in list(sys.modules.values())}
    frames = traceback.extract_tb(error.__traceback__)
    frames = [f for f in frames if f.name == "<module>" and f.filename not in modules]
    return f"{frames[-1].filename}:{frames[-1].lineno}" if frames and Path(frames[-1].filename).is_file() else str(path)


def read(path: Path) -> Config:
    """The config of a file, its ``custom_imports`` not done yet.

    Raises:
        UsageError: it cannot be read; one line for every reason that can be told.
    """
    locate(path)
    try:
        return Config.fromfile(str(path), import_custom_modules=False)
    except (Exception, SystemExit) as error:  # a config is code, anything can happen in it
        faults = look_at(path)
        if faults:
            raise ConfigFaults(faults) from error
        text = " ".join(str(error).split())
        raise UsageError(f"{_place(error, path)}: {type(error).__name__}: {text[:300]}") from error


def do_imports(cfg: Config) -> List[str]:
    """Import what ``custom_imports`` names; a line for each that cannot be."""
    wanted = cfg.get("custom_imports")
    if not wanted:
        return []
    if not isinstance(wanted, dict):
        return [f"custom_imports: must be dict(imports=[...]), got {wanted!r}"]
    lines = [
        f"custom_imports.{key}: unknown{did_you_mean(key, ('imports', 'allow_failed_imports'))}"
        for key in wanted
        if key not in ("imports", "allow_failed_imports")
    ]
    names = wanted.get("imports") or []
    for name in [names] if isinstance(names, str) else names:
        try:
            importlib.import_module(name)
        except Exception as error:
            if isinstance(error, ImportError) and wanted.get("allow_failed_imports"):
                continue
            missing = getattr(error, "name", None)
            if missing and (name == missing or name.startswith(f"{missing}.")):
                parent, _, last = missing.rpartition(".")
                siblings = [one.name for one in pkgutil.iter_modules(_folders(parent))]
                if not parent:  # packages that were installed to be edited are in no folder of sys.path
                    siblings += [module for module in sys.modules if "." not in module]
                found = near(last, siblings, cutoff=0.7)
                hint = f"; did you mean {parent + '.' if parent else ''}{found}?" if found else ""
                lines.append(f"custom_imports.imports: no module {missing!r}{hint or '; set PYTHONPATH to its folder'}")
            else:
                text = " ".join(str(error).split())
                lines.append(f"custom_imports.imports: importing {name} fails: {type(error).__name__}: {text[:200]}")
    return lines


def _folders(package: str) -> Optional[Sequence[str]]:
    return list(getattr(sys.modules.get(package), "__path__", [])) if package else None
