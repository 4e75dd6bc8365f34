"""Say what this environment has and what is wrong with it: ``python -m mmsema.collect_env``.

Imports nothing but the standard library until it runs, so that it works where mmsema itself does not import.
"""

import importlib
import re
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Dict, List, Optional, Sequence

# import name -> its distribution in the two stacks, which share import names and so overwrite each other's files
HOSTS = {
    "mmengine": ("onedl-mmengine", "mmengine"),
    "mmcv": ("onedl-mmcv", "mmcv"),
    "mmdet": ("onedl-mmdetection", "mmdet"),
    "mmpretrain": ("onedl-mmpretrain", "mmpretrain"),
    "mmseg": ("onedl-mmsegmentation", "mmsegmentation"),
}
MMCV_WITHOUT_OPERATORS = ("mmcv-lite", "mmcv-full")
BASE = (
    "setuptools",
    "numpy",
    "torch",
    "torchvision",
    "triton",
    "opencv-python",
    "opencv-python-headless",
    "pycocotools",
)
REQUIRED = ("numpy", "torch", "torchvision", "cv2", "mmengine", "mmcv", "mmcv.ops")

# what an import says -> what is wrong and what helps
KNOWN = (
    (
        r"operator torchvision::nms does not exist|torchvision.*undefined symbol",
        "torch and torchvision do not belong together: install the torchvision made for this torch (0.26 for 2.11, "
        "0.16 for 2.1), both from the same index",
    ),
    (
        r"No module named 'mmcv\._ext'|No module named 'mmcv\.ops'",
        "mmcv has no operators: uninstall it and build it with them, after torch: MMCV_WITH_OPS=1 pip install "
        "--no-build-isolation --no-binary :all: --no-deps {mmcv}",
    ),
    (
        r"_ext.*undefined symbol|undefined symbol.*_ext",
        "mmcv's operators were built for another torch: uninstall mmcv and build it again, after torch",
    ),
    (
        r"libGL|libgthread",
        "OpenCV needs a display library that is not there: pip install --force-reinstall opencv-python-headless",
    ),
    (r"No module named 'pkg_resources'", 'setuptools is too new for this package: pip install "setuptools<81"'),
    (
        r"numpy\.core\.multiarray failed|NumPy 1\.x cannot be run|Numpy is not available",
        'this torch needs NumPy 1: pip install "numpy<2"',
    ),
)


def _version(distribution: str) -> Optional[str]:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _explain(module: str, error: BaseException, mmcv: str) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    for pattern, advice in KNOWN:
        if re.search(pattern, text):
            return f"{advice.format(mmcv=mmcv)} ({module}: {text})"
    return f"{module} does not import: {type(error).__name__}: {text}"


def _check_imports(modules: Sequence[str], mmcv: str) -> List[str]:
    """One line for each cause that keeps a module from being imported."""
    found: Dict[str, str] = {}
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:  # mmdet asserts versions, torchvision raises RuntimeError: anything may come
            found.setdefault(" ".join(str(error).split()), _explain(module, error, mmcv))
    return list(found.values())


def _check_torch() -> List[str]:
    """What imports well and fails later."""
    import numpy
    import torch
    from mmcv.ops import get_compiling_cuda_version

    found = []
    try:
        torch.from_numpy(numpy.zeros(1))
    except RuntimeError as error:
        found.append(_explain("torch", error, ""))
    if torch.cuda.is_available() and get_compiling_cuda_version() == "not available":
        found.append(
            "torch sees a CUDA device, but mmcv's operators were built without CUDA: uninstall mmcv and build it again "
            "with FORCE_CUDA=1, or hide the device (CUDA_VISIBLE_DEVICES=)"
        )
    return found


def packages() -> Dict[str, str]:
    """Versions of what is installed, by distribution."""
    hosts = [name for pair in HOSTS.values() for name in pair]
    names = ["mmsema", *BASE, *hosts, *MMCV_WITHOUT_OPERATORS]
    return {name: found for name in names if (found := _version(name))}


def problems() -> List[str]:
    """One line for each fault: what is wrong, and what to do. Empty when all is well."""
    installed, found = packages(), []
    if not (3, 10) <= sys.version_info[:2] <= (3, 13):
        found.append(f"Python 3.10 to 3.13 is needed, this is {sys.version.split()[0]}")
    if "torch" in installed and "triton" not in installed:
        found.append("triton is not installed: the GPU kernels cannot run, PyTorch's operators take their place")
    onedl, openmmlab = ([pair[i] for pair in HOSTS.values() if pair[i] in installed] for i in range(2))
    if onedl and openmmlab:
        found.append(
            f"both stacks are installed and overwrite each other's files: uninstall {' '.join(onedl + openmmlab)}, "
            "then install one: pip install '.[onedl]' or '.[openmmlab]'"
        )
    for name in MMCV_WITHOUT_OPERATORS:
        if name in installed:
            found.append(f"{name} takes mmcv's place and lacks its operators: uninstall it, then install mmcv")
    if not onedl and not openmmlab:
        found.append("no OpenMMLab package is installed: pip install '.[onedl]' (or '.[openmmlab]')")
        return found
    hosts = [name for name in ("mmdet", "mmpretrain", "mmseg") if any(pair in installed for pair in HOSTS[name])]
    if not hosts:
        found.append("none of mmdet, mmpretrain and mmseg is installed: SEMA is trained in one of them")
    mmcv = "onedl-mmcv" if onedl else "mmcv"
    steps = (  # each needs the one before
        lambda: _check_imports(REQUIRED, mmcv),
        _check_torch,
        lambda: _check_imports(hosts, mmcv),
        lambda: _check_imports(["mmsema.models"], mmcv),
    )
    return found + next(filter(None, (step() for step in steps)), [])


def main() -> None:
    for name, number in packages().items():
        print(f"{name:24} {number}")
    found = problems()
    if found:
        print("", f"{len(found)} problem{'s' if len(found) > 1 else ''}:", *(f"- {line}" for line in found), sep="\n")
        sys.exit(1)
    from mmengine.utils.dl_utils import collect_env

    print(*(f"{name}: {value}" for name, value in collect_env().items()), sep="\n")
    print("\nNo problem found.")


if __name__ == "__main__":
    main()
