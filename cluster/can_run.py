"""Whether this machine can run trials: the package imports, and the results folder is there.

python -m cluster.can_run [~/results]; what starts Ray on a worker asks first.
"""

import os
import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """0 if it can; else 1, with the reason on stderr."""
    import trainers.ray_worker  # noqa: F401  # fails here rather than in every trial

    for results in sys.argv[1:] if argv is None else argv:
        if os.path.lexists(results) and not os.access(results, os.W_OK | os.X_OK):
            told = os.path.realpath(results)
            print(f"error: {told} can't be written on {os.uname().nodename}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
