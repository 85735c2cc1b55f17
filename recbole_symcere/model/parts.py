"""Parts of models that a setting can name, and the modules of users that bring more of them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from recbole_symcere.errors import ConfigError
from recbole_symcere.properties import nearest

Part = TypeVar("Part")
Decorated = TypeVar("Decorated")


class Registry(dict[str, Part]):
    """The parts that a setting can name, for example the graph encoders.

    Args:
        setting: the key of the setting.
    """

    def __init__(self, setting: str) -> None:
        super().__init__()
        self.setting = setting

    def register(self, name: str) -> Callable[[Decorated], Decorated]:
        """Decorates a class or a function, which the setting can then name."""

        def add(part: Decorated) -> Decorated:
            self[name] = part  # type: ignore[assignment]
            return part

        return add

    def find(self, name: Any) -> Part:
        """Returns the part of a name.

        Raises:
            ConfigError: no part has this name.
        """
        if name not in self:
            names = ", ".join(map(repr, self))
            raise ConfigError(f"{self.setting} is {name!r}, but must be one of {names}{nearest(str(name), self)}")
        return self[name]


def import_modules(names: Any) -> None:
    """Imports modules that register models, metrics and other parts, from the working directory or as installed.

    Args:
        names: the value of the setting ``imports``: the names of the modules.

    Raises:
        ConfigError: ``names`` is no list of names, or a module can't be imported.
    """
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise ConfigError(f"imports is {names!r}, but must be a list of names of modules, such as [my_models]")
    if names and (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    for name in names:
        imported("imports", name)


def imported(where: str, name: str) -> ModuleType:
    """Returns a module, which is imported if it is not yet.

    Args:
        where: begins the message of an error.

    Raises:
        ConfigError: the module can't be imported.
    """
    try:
        return import_module(name)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{where}: the module {name!r} can't be imported ({error})") from error
