"""Keep a small process small: put off what a library imports and this command never calls.

structlog imports asyncio for its asynchronous methods, and asyncio brings ssl: 7 MiB of an idle
daemon's 25. dataclasses imports inspect for classes without a docstring; and who finds nothing
to do neither runs programs nor writes files. Together they are a third of the start of a command.
What is put off is imported after all when somebody touches it.
"""

import importlib
import sys
from types import ModuleType

PUT_OFF = ("asyncio", "inspect", "subprocess", "tempfile")


class Later(ModuleType):
    """Stands in for a module until one of its names is asked for."""

    def __getattr__(self, name: str) -> object:
        """Import the real module and return its attribute."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(importlib.import_module(self.__name__), name)


def put_off(*names: str) -> None:
    """Let modules be imported only when they are used; one that is there stays."""
    for name in names:
        sys.modules.setdefault(name, Later(name))
