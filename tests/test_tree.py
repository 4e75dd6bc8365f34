"""mmsema's modules import one another one way."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = dict(mmsema_kernels="kernels", mmsema="mmsema")
# a room imports from those above it only; files and folders of mmsema
ROOMS = (
    "mmsema_kernels",
    "version",
    "hub",
    "collect_env",
    "registry",
    "visualization",
    "models",
    "necks",
    "datasets",
    "audit",
    "checkpoint",
    "engine",
    "apis",
    "analysis",
    "make_config",
    "export",
    "benchmark",
    "evidence",
    "__main__",
)


def modules() -> dict:
    """File of every module, by its dotted name."""
    found = {}
    for package, folder in PACKAGES.items():
        for path in (ROOT / folder).rglob("*.py"):
            parts = [package, *path.relative_to(ROOT / folder).with_suffix("").parts]
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(name: str, path: Path, known: dict) -> set:
    """The modules of ours that a module imports, wherever in its code; a package stands for its ``__init__``."""
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    result = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            result |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{module}.{alias.name}"
                result.add(inner if inner in known else module)
    return {module for module in result if module in known} - {name}


def graph() -> dict:
    known = modules()
    return {name: imported(name, path, known) for name, path in known.items()}


def room(module: str) -> str:
    parts = module.split(".")
    return parts[0] if parts[0] != "mmsema" else (parts[1] if len(parts) > 1 else "mmsema")


def test_no_module_imports_itself_through_others():
    try:
        list(TopologicalSorter(graph()).static_order())
    except CycleError as error:
        pytest.fail("a circle: " + " <- ".join(error.args[1]))


@pytest.mark.slow
def test_rooms_import_one_way():
    edges = graph()
    rooms = {room(module) for module in edges} - {"mmsema"}  # __init__.py offers the models and is imported by none
    assert rooms == set(ROOMS)
    wrong = [
        f"{module} imports {other}"
        for module, others in edges.items()
        for other in others
        if room(module) != "mmsema" and ROOMS.index(room(other)) > ROOMS.index(room(module))
    ]
    assert not wrong, wrong


def test_the_backbone_serves_every_host():
    """kernels, models and checkpoint never import a host beside mmengine, wherever in their code."""
    for name, path in modules().items():
        if room(name) not in ("mmsema_kernels", "models", "checkpoint"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            hosts = {n.split(".")[0] for n in names} & {"mmdet", "mmpretrain", "mmseg", "mmcv"}
            assert not hosts, f"{name} imports {hosts}"
