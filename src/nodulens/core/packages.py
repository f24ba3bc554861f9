"""A package that can be called, where a function of the public interface has the name of a package."""

from __future__ import annotations

from types import ModuleType
from typing import Any


class CallablePackage(ModuleType):
    """Calling the package calls the function in it that has its name: ``nodulens.train(…)``, ``nodulens.evaluate(…)``.

    Python sets ``nodulens.train`` to the package as soon as any of it is imported, so a function of that name in
    ``nodulens`` itself would be there or not by the order of imports.
    """

    def __call__(self, *args: Any, **options: Any) -> Any:
        """See the function of the package's own name."""
        return getattr(self, self.__name__.rpartition(".")[2])(*args, **options)
