"""Names that a study can use: losses and datasets, the project's own and the user's.

A registry knows the module behind each built-in name without importing it, so that a plan of
thousands of trials is checked without loading torch.
"""

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Final, Generic, TypeVar

from analysis.store.errors import InputError, one_line, unknown

T = TypeVar("T")


class Registry(Generic[T]):
    """Names of one kind; `register` adds the user's own."""

    def __init__(self, kind: str, builtin: Mapping[str, str]) -> None:
        self.kind = kind
        self._modules = dict(builtin)
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator: make `name` usable in studies. Raises ValueError if it is taken."""

        def add(entry: T) -> T:
            module = getattr(entry, "__module__", None)
            if name in self._entries or self._modules.get(name, module) != module:
                raise ValueError(f"{self.kind} {name!r} is registered already; choose another name")
            self._entries[name] = entry
            return entry

        return add

    def names(self) -> list[str]:
        """Every known name, sorted."""
        return sorted(self._modules.keys() | self._entries.keys())

    def check(self, name: str) -> None:
        """Raises InputError, with the nearest name, unless `name` is known."""
        if name not in self._modules and name not in self._entries:
            raise unknown(self.kind, name, self.names())

    def __getitem__(self, name: str) -> T:
        self.check(name)
        if name not in self._entries:
            import_module(self._modules[name])  # registers itself while it is imported
        return self._entries[name]


LOSSES: Final[Registry[Callable]] = Registry(
    "loss", dict.fromkeys(("bce", "ce", "focal", "mse"), "trainers.model.losses")
)


def register_loss(name: str) -> Callable[[Callable], Callable]:
    """Decorator for a loss `f(logits (B, K), targets (B,) or (B, K), **loss_kwargs) -> scalar`."""
    return LOSSES.register(name)


def load_plugins(modules: list[str] | tuple[str, ...], *, where: str = "") -> None:
    """Import the user's modules, which register their names. Raises InputError if one can't be.

    `where`: who names them, for the message.
    """
    prefix = f"{where}: " if where else ""
    for module in modules:
        try:
            import_module(module)
        except (Exception, SystemExit) as error:  # the user's code can raise anything
            raise InputError(
                f"{prefix}plugin {module!r} can't be imported ({one_line(error)}); correct it, or "
                "put it on PYTHONPATH"
            ) from error
