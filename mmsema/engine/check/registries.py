"""Find what a config's ``type`` names, as the registries would, and the nearest name where there is none."""

import difflib
import functools
import sys
from importlib import import_module
from typing import Any, Callable, Iterable, List, Optional, Sequence, Tuple

import mmengine.registry
from mmengine.registry import Registry


def near(name: str, names: Iterable[str], cutoff: float = 0.6) -> Optional[str]:
    """The one of ``names`` that is most like ``name``, capitals aside."""
    by_lower = {str(other).lower(): str(other) for other in names}
    found = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=cutoff)
    return by_lower[found[0]] if found else None


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """``"; did you mean X?"``, or nothing."""
    found = near(name, names)
    return f"; did you mean {found}?" if found else ""


@functools.cache
def registries_of(kind: str, scope: str) -> Tuple[Registry, ...]:
    """The registries of a kind (``"MODELS"``) in which a scope looks for a bare name, the nearest one first."""
    try:
        module = import_module(f"{scope}.registry")
    except ImportError:
        module = None
    found = [getattr(module, kind, None), getattr(mmengine.registry, kind, None)]
    if isinstance(found[1], Registry) and not isinstance(found[0], Registry):
        found[0] = found[1]._search_child(scope)
    chain: List[Registry] = []
    for registry in found:
        while isinstance(registry, Registry) and registry not in chain:
            registry.import_from_location()
            chain.append(registry)
            registry = registry.parent
    return tuple(chain)


def find(name: Any, kinds: Sequence[str], scope: str) -> Optional[Callable]:
    """The class or function that ``type=name`` stands for in the first of the kinds that knows it, or None."""
    if not isinstance(name, str):
        return name if callable(name) else None
    for kind in kinds:
        chain = registries_of(kind, scope)
        if not chain:
            continue
        try:
            found = chain[0].get(name)
        except Exception:  # the forks raise where the official package returns None
            found = None
        if found is not None:
            return found
    return None


def names_of(kinds: Sequence[str], scope: str) -> List[str]:
    """Every name that :func:`find` knows without a prefix."""
    return [name for kind in kinds for registry in registries_of(kind, scope) for name in registry.module_dict]


def all_kinds() -> List[str]:
    return [name for name, value in vars(mmengine.registry).items() if isinstance(value, Registry)]


def holders(name: str) -> List[Tuple[str, str]]:
    """Scope and kind of the imported registries, wherever they are, that know a bare name."""
    return [
        (registry.scope, kind)
        for module in list(sys.modules)
        if module.endswith(".registry")
        for kind, registry in vars(sys.modules[module]).items()
        if isinstance(registry, Registry) and name in registry.module_dict
    ]
