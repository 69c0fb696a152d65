"""Methods from outside the package: run only where the command line names their file."""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from stakes.errors import ConfigError
from stakes.files import digest_file
from stakes.methods import METHODS, Method


@dataclass(frozen=True)
class Registry:
    """Methods by name: the library's, and those of named files. Workers rebuild it from ``files``.

    Attributes:
        files: the files, absolute.
        methods: name to class.
        digests: name of an outside method to the SHA-256 of its file, so that changed code makes other cells.
    """

    files: tuple[Path, ...] = ()
    methods: Mapping[str, type[Method[Any]]] = field(default_factory=lambda: dict(METHODS))
    digests: Mapping[str, str] = field(default_factory=dict)

    def find(self, name: str) -> type[Method[Any]]:
        """The class of a name.

        Raises:
            ConfigError: there is none; the message lists them.
        """
        if name not in self.methods:
            raise ConfigError(
                f"method {name!r}",
                expected="one of " + ", ".join(self.methods),
                got=repr(name),
                fix="A method of your own needs its file: --plugins FILE.py.",
            )
        return self.methods[name]


def load_plugins(files: Sequence[Path]) -> Registry:
    """Import Python files and take in the methods that they define. This runs their code.

    Raises:
        ConfigError: a file cannot be imported, defines no method, or a name that is taken.
    """
    methods, digests = dict(METHODS), {}
    for path in (file.resolve() for file in files):
        found = _methods_of(_import(path))
        if not found:
            raise ConfigError(
                f"--plugins {path}", expected="a subclass of stakes.methods.Method", got="none in that file"
            )
        for kind in found:
            if kind.name in methods:
                raise ConfigError(f"--plugins {path}", expected="a name of its own", got=repr(kind.name))
            methods[kind.name], digests[kind.name] = kind, digest_file(path)
    return Registry(tuple(file.resolve() for file in files), methods, digests)


def _import(path: Path) -> ModuleType:
    name = f"stakes_plugin_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path) if path.is_file() else None
    if spec is None or spec.loader is None:
        raise ConfigError(f"--plugins {path}", expected="a Python file", got="nothing to import there")
    module = importlib.util.module_from_spec(spec)
    # Annotations of its settings are looked up here while it is imported.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ConfigError(
            f"--plugins {path}",
            expected="a file that can be imported",
            got=f"{type(error).__name__}: {error}",
        ) from error
    return module


def _methods_of(module: ModuleType) -> list[type[Method[Any]]]:
    return [
        kind
        for kind in vars(module).values()
        if inspect.isclass(kind)
        and issubclass(kind, Method)
        and kind.__module__ == module.__name__
        and not inspect.isabstract(kind)
        and hasattr(kind, "name")
    ]
