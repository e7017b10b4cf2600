"""Keep a small process small: put off what a library imports and we never call.

structlog imports asyncio for its asynchronous methods, and asyncio brings ssl: 7 MiB of an
idle daemon's 25, and a third of the start of every command. What is put off is imported
after all when somebody touches it.
"""

import importlib
import sys
from types import ModuleType


class Later(ModuleType):
    """Stands in for a module until one of its names is asked for."""

    def __getattr__(self, name: str) -> object:
        """Import the real module and return its attribute."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def put_off(name: str) -> None:
    """Let a module be imported only when it is used; one that is there stays."""
    sys.modules.setdefault(name, Later(name))
