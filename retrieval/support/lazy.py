"""Names that are loaded when they are first asked for: the public ones of a room, and how a result is drawn."""

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any


def lazy_names(
    package_name: str, homes: dict[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """Return ``__getattr__``, ``__dir__`` and ``__all__`` of a package that loads its public names on use.

    So `vmem --help` and an import of one name load nothing of the others. Type checkers know the same names by imports
    under ``if TYPE_CHECKING``; the call stands under its ``else``, so that they still notice a name that is none.

    Args:
        package_name: of the package, as its ``__name__`` says.
        homes: the module of each public name.
    """

    def get(name: str) -> Any:  # noqa: ANN401 - whatever the name stands for
        if name == "__version__":  # as the installed package's metadata say, which is its one source
            from importlib.metadata import version  # here, for it takes longer to load than all else of a room

            return version("visual-memory-agent")
        if name not in homes:
            raise AttributeError(f"module {package_name!r} has no attribute {name!r}")
        found = getattr(import_module(homes[name]), name)
        setattr(sys.modules[package_name], name, found)
        return found

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package_name]), *homes})

    return get, names, sorted(homes)


def shown_by(module: str, renderer: str) -> Callable[[Any], str]:
    """Return a ``_repr_html_`` that hands the result to a function of a module, loaded when a notebook first asks.

    So results show themselves after any import, and their modules stand below those that draw them.
    """

    def _repr_html_(self: object) -> str:
        return str(getattr(import_module(module), renderer)(self))

    return _repr_html_
