"""What a user's mistake looks like: one line (what, where, how to mend) and exit code 2, never a traceback.

Every command's ``main`` is wrapped by :func:`run_main`; library code raises :class:`InputError` and never prints or exits.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Sequence

EXIT_OK, EXIT_FAILED, EXIT_BAD_INPUT, EXIT_INTERRUPTED = 0, 1, 2, 130


class InputError(Exception):
    """Bad arguments or bad input. ``what`` is wrong, ``where`` it is, how to ``mend`` it; prints as one line."""

    def __init__(self, what: str, where: object = "", mend: str = "") -> None:
        parts = [what, f"in {where}" if where else "", mend]
        super().__init__(" ".join("; ".join(part for part in parts if part).split()))


class LibraryNotBuilt(InputError, ImportError):
    """A compiled part of the package is missing or does not load."""

    def __init__(self, what: str, where: object = "") -> None:
        super().__init__(what, where, "build it from the repository with: pip install --no-build-isolation -e .")


FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NOT_THERE = {errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG}


class StatedFailure(Exception):
    """The request was fine but its result is not acceptable (exit code 1), e.g. an export that disagrees with PyTorch."""


def run_main(main: Callable[[Sequence[str] | None], int | None], argv: Sequence[str] | None = None) -> int:
    """Runs ``main(argv)`` and turns its outcome into an exit code; argparse's own exit (2) passes through."""
    try:
        return main(argv) or EXIT_OK
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except StatedFailure as error:
        print(f"failed: {error}", file=sys.stderr)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("interrupted: what is finished is kept; run the same command again to go on", file=sys.stderr)
        return EXIT_INTERRUPTED
    except OSError as error:
        if error.errno not in FULL | _NOT_THERE:
            raise
        mend = "; free some space and run again" if error.errno in FULL else ""
        print(f"error: cannot write or read: {error.strerror}; in {error.filename or 'the output folder'}{mend}", file=sys.stderr)
        return EXIT_BAD_INPUT
