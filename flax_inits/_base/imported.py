"""Classes of packages that this one imports on use only, since they are slow to import."""

import sys
from typing import Any


def imported(module: str, name: str) -> Any:
    """Finds a class; () while nobody has imported its module, and so none of its objects is about.

    Nothing is an instance or a subclass of ().
    """
    return getattr(sys.modules.get(module), name, ())
