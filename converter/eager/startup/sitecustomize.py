"""Imported by Python at its start where this folder is on PYTHONPATH; see ../environment.py.

It runs in every Python process of that environment, so it imports nothing but the standard library,
and acts only where a switch is set and torch is imported.
"""

import importlib.machinery
import importlib.util
import os
import sys
from importlib.abc import MetaPathFinder

_HERE = os.path.dirname(os.path.abspath(__file__))
_SWITCHES = ("CONVERT_VAE_CONV2D", "CONVERT_VAE_CONV2D_BF16")


class _AfterTorch(MetaPathFinder):
    """Lets torch be found by the others, and installs the replacement once it is imported."""

    def find_spec(self, fullname, path=None, target=None):  # type: ignore[no-untyped-def]
        if fullname != "torch":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec("torch")
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def exec_module(module):  # type: ignore[no-untyped-def]
            execute(module)
            from converter.eager import install_from_environment

            install_from_environment()

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


def _import_hidden_sitecustomize() -> None:
    """Only one sitecustomize is imported; the one that this file hides has its turn as well."""
    others = [entry for entry in sys.path if os.path.abspath(entry) != _HERE]
    spec = importlib.machinery.PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


if any(os.environ.get(switch) for switch in _SWITCHES):
    sys.meta_path.insert(0, _AfterTorch())
_import_hidden_sitecustomize()
