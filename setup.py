"""Compiles what torch, pybind11 and a compiler allow; what and how is in vsr_kernels/build.py."""

import importlib.util
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).resolve().parent


def load(name):
    """Load one file of the package without importing the package, which needs torch."""
    spec = importlib.util.spec_from_file_location(f"_vsr_kernels_{name}", HERE / "vsr_kernels" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


ext_modules, cmdclass = load("build").extensions()
# A wheel serves all versions of Python unless it holds the NumPy object: pybind11 does without the limited API.
limited = bool(ext_modules) and all(extension.py_limited_api for extension in ext_modules)

setup(
    version=load("version").__version__,
    ext_modules=ext_modules,
    cmdclass=cmdclass,
    options={"bdist_wheel": {"py_limited_api": "cp310"}} if limited else {},
)
