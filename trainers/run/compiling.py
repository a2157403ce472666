"""torch.compile, and its cache on disk, which a kill may leave damaged.

The compiler shares a folder of compiled code among all processes of a user, and takes what is there
for whole: half a library fails every trial of its kind on that machine. Such a folder is marked and
left to who uses it still, and another is begun beside it.
"""

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import count
from pathlib import Path
from typing import Final, TypeVar

import torch
from torch import nn

from analysis.store.errors import one_line
from trainers.run.ranks import RankLostError, Ranks

FOLDER: Final = "TORCHINDUCTOR_CACHE_DIR"  # read by the compiler whenever it looks for something
MARK: Final = "damaged"


T = TypeVar("T")


def again_if_cache_is_damaged(train: Callable[[], T], ranks: Ranks) -> T:
    """What `train` gives; it is called again if the compiler fails by what was in its cache.

    Only what an empty folder gives is believed to be the fault of what is compiled. Of several
    ranks all would have to begin again: raises RankLostError, so that other processes do.
    """
    marked: list[Path] = []
    while True:
        folder = next(each for each in _folders() if not (each / MARK).exists())
        was_empty = not folder.is_dir() or not any(folder.iterdir())
        os.environ[FOLDER] = str(folder)
        try:
            return train()
        except Exception as error:
            if not _is_of_compiler(error):
                raise
            if was_empty:
                for innocent in marked:
                    (innocent / MARK).unlink(missing_ok=True)
                raise
            (folder / MARK).touch()
            marked.append(folder)
            line = f"compiled code in {folder} seems damaged ({one_line(error)}); compiling again"
            print(line, file=sys.stderr)
            if ranks.world_size > 1:
                raise RankLostError(line) from error


def _is_of_compiler(error: BaseException) -> bool:
    from torch._dynamo.exc import TorchDynamoException  # here: it takes a second to import

    return isinstance(error, TorchDynamoException)


def compile_net(net: nn.Module) -> nn.Module:
    """The same, compiled when it is first called; what the process compiled before is forgotten."""
    from torch._inductor.utils import clear_caches

    torch.compiler.reset()
    clear_caches()  # which remember their folder
    return torch.compile(net, dynamic=False)  # pyright: ignore[reportReturnType]


def missing_compiler() -> str | None:
    """The C++ compiler that torch.compile would use on a CPU, if it isn't there."""
    compiler, *_ = shlex.split(os.environ.get("CXX", "")) or ["g++"]
    return None if shutil.which(compiler) else compiler


@lru_cache(maxsize=1)
def _first_folder() -> Path:
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    return Path(cache_dir())  # the user's, if that is set


def _folders() -> Iterator[Path]:
    first = _first_folder()
    yield first
    yield from (first.with_name(f"{first.name}.{number}") for number in count(2))
