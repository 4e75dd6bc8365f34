"""Build script. The wheel carries configs and tools where mim and mmengine look for them (``.mim``)."""

import shutil
import tempfile
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
VERSION = {}
exec((ROOT / "mmsema" / "version.py").read_text(), VERSION)

EXTRAS = {
    # The maintained forks, and the official packages: they share import names, so install one of the two.
    "onedl": ["onedl-mmengine>=0.10.12", "onedl-mmcv>=2.3.6", "onedl-mmdetection>=3.5.1", "onedl-mmpretrain>=1.3.6"],
    "openmmlab": ["mmengine>=0.10.7", "mmcv>=2.1.0,<2.2.0", "mmdet>=3.3.0", "mmpretrain>=1.2.0"],
    "seg": ["onedl-mmsegmentation>=1.4.2"],  # beside onedl; beside openmmlab: mmsegmentation itself
    "export": ["onnx", "onnxruntime", "onnxscript"],
    "demo": ["matplotlib", "pycocotools", "scikit-learn"],
    "docs": ["furo", "myst-parser", "sphinx", "sphinx-copybutton"],
    "lint": ["codespell", "mypy", "ruff", "types-PyYAML"],
    "dev": ["mmsema[demo,docs,export,lint,seg]", "hypothesis", "onedl-mim>=0.5.1", "pytest", "pytest-xdist", "wheel"],
}


class BuildWithMim(build_py):
    """Copy configs, tools and the model index beside the code.

    The second copy, in ``_mmsema_mim``, is for onedl-mim 0.5.1: it takes the first path of a wheel's RECORD as the
    package's folder, and ``mmsema-0.1.0.dist-info`` sorts before ``mmsema``. An underscore sorts before both.
    """

    def run(self) -> None:
        super().run()
        if self.editable_mode:  # mim then reads the checkout itself
            return
        for package in ("mmsema", "_mmsema_mim"):
            target = Path(self.build_lib) / package / ".mim"
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True)
            for folder in ("configs", "tools"):
                shutil.copytree(ROOT / folder, target / folder, ignore=shutil.ignore_patterns("__pycache__"))
            shutil.copy(ROOT / "model-index.yml", target)
        (Path(self.build_lib) / "_mmsema_mim" / "__init__.py").write_text('"""Data for mim; see setup.py."""\n')


# Not build/ in the checkout: mim would find every config there a second time, and old files would get into new wheels.
BUILD_FOLDER = tempfile.TemporaryDirectory()

setup(
    name="mmsema",
    version=VERSION["__version__"],
    description="SEMA vision backbones for OpenMMLab: windowed softmax attention plus the mean of all values",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The mmsema authors",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    packages=[*find_packages(include=["mmsema", "mmsema.*"]), "mmsema_kernels"],
    package_dir={"mmsema_kernels": "kernels"},
    package_data={"mmsema": ["py.typed"], "mmsema_kernels": ["py.typed"]},
    install_requires=["torch>=2.1", "torchvision>=0.16"],
    extras_require=EXTRAS,
    cmdclass={"build_py": BuildWithMim},
    options={"build": {"build_base": BUILD_FOLDER.name}},
    zip_safe=False,
    classifiers=[
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
)
