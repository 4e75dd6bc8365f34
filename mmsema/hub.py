"""Make mmpretrain's ``list_models`` and ``get_model`` know our classifiers, in whichever order the two are imported."""

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Optional, Sequence

HUB = "mmpretrain.apis.model"  # where mmpretrain keeps its ModelHub


def data_folder() -> Path:
    """The folder with ``configs/``: ``.mim`` of an installed package, the root of a checkout."""
    package = Path(__file__).resolve().parent
    return package / ".mim" if (package / ".mim").is_dir() else package.parent


def _register(hub: ModuleType) -> None:
    """Add the entries of configs/metafile.yml to mmpretrain's ModelHub, once."""
    root = data_folder()
    metafile = root / "configs/metafile.yml"
    if metafile.is_file() and not hub.ModelHub.has("sema-t_8xb128_in1k"):
        hub.ModelHub.register_model_index(metafile, config_prefix=root)
        for model in hub.ModelHub._models_dict.values():
            if model.weights and model.weights.startswith("results/"):  # in a checkout; the package carries none
                path = root / model.weights
                model.weights = str(path) if path.is_file() else None


class _AfterImport(MetaPathFinder):
    """Waits for mmpretrain to be imported, then registers and leaves."""

    def find_spec(
        self, fullname: str, path: Optional[Sequence[str]], target: Optional[ModuleType] = None
    ) -> Optional[ModuleSpec]:
        if fullname != HUB:
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                _register(module)

            spec.loader.exec_module = exec_module
        return spec


def register_classifiers() -> None:
    """Register now if mmpretrain is imported already, otherwise when it is; never import it."""
    if HUB in sys.modules:
        _register(sys.modules[HUB])
    else:
        sys.meta_path.insert(0, _AfterImport())
