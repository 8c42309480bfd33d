"""Builds the distribution rfdetr-ops from the repository's own sources: the library with the
namespace ``rfdetr_ops``, and the modules of ``rfdetr_repro/ops`` that need PyTorch only.

``python -m build packages/rfdetr-ops`` or, with the PyTorch already installed,
``python -m build --no-isolation --wheel packages/rfdetr-ops``. For another processor,
``_PYTHON_HOST_PLATFORM=linux-aarch64 CXX=aarch64-linux-gnu-g++`` before the command, with
RFDETR_CUDA=0. A source archive holds the same sources in the folder ``repository``.
"""

from __future__ import annotations

import ast
import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

from setuptools import Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE / "repository" if (HERE / "repository").is_dir() else HERE.parents[1]
OPS = REPOSITORY / "rfdetr_repro" / "ops"
MODULES = (
    "__init__",
    "accelerate",
    "deform_attn",
    "foreign_forms",
    "library",
    "linear",
    "masks",
    "pictures",
    "reference",
    "shared_signature",
)
NAMESPACE = "rfdetr_ops"


def repository_setup() -> ModuleType:
    """The repository's setup.py as a module: how the library is compiled."""
    spec = importlib.util.spec_from_file_location("repository_setup", REPOSITORY / "setup.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def version() -> str:
    """The version of rfdetr_repro, which these sources are part of."""
    text = (REPOSITORY / "rfdetr_repro" / "__init__.py").read_text(encoding="utf-8")
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__":
            return str(ast.literal_eval(node.value))
    raise SystemExit("error: rfdetr_repro/__init__.py states no version")


class BuildPackage(build_py):
    """``build_py`` that adds the repository's modules and the compiled library."""

    def run(self) -> None:
        super().run()
        package = Path(self.build_lib) / "rfdetr_ops"
        package.mkdir(parents=True, exist_ok=True)
        for name in MODULES:
            shutil.copyfile(OPS / f"{name}.py", package / f"{name}.py")
        (package / "py.typed").touch()
        rules = repository_setup()
        folder = HERE / "build" / rules.machine()
        rules.build(folder, NAMESPACE)
        shutil.copyfile(folder / rules.LIBRARY, package / rules.LIBRARY)

    def get_source_files(self) -> list[str]:
        return [name for name in super().get_source_files() if Path(name).is_file()]


class PlatformWheel(bdist_wheel):
    """A wheel of any Python and one platform: the library has no interpreter's symbols."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.root_is_pure = False

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


class Compiled(Distribution):
    """Has a compiled part, although no extension module."""

    def has_ext_modules(self) -> bool:
        return True


class WithSources(sdist):
    """``sdist`` that adds what the wheel is built from."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        super().make_release_tree(base_dir, files)
        copy = Path(base_dir) / "repository"
        shutil.copytree(REPOSITORY / "csrc", copy / "csrc", dirs_exist_ok=True)
        (copy / "rfdetr_repro" / "ops").mkdir(parents=True, exist_ok=True)
        for name in MODULES:
            shutil.copyfile(OPS / f"{name}.py", copy / "rfdetr_repro" / "ops" / f"{name}.py")
        shutil.copyfile(
            REPOSITORY / "rfdetr_repro" / "__init__.py", copy / "rfdetr_repro" / "__init__.py"
        )
        shutil.copyfile(REPOSITORY / "setup.py", copy / "setup.py")


setup(
    version=version(),
    packages=["rfdetr_ops"],
    distclass=Compiled,
    cmdclass={"build_py": BuildPackage, "bdist_wheel": PlatformWheel, "sdist": WithSources},
)
