"""An advisory lock on a run's folder, which ends with its process."""

import errno
import fcntl
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from eqids.config import UserError

LOCK = ".lock"

_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)


class Lock:
    """Locks a folder until `release`, or until the process ends."""

    def __init__(
        self,
        directory: Path,
        report: Callable[[str], None],
        flag: str = "--checkpoint_dir",
    ) -> None:
        """Makes the folder if it does not exist, and locks it.

        Args:
            directory: the run's folder.
            report: called with a message if the filesystem has no locks; the folder
                is not locked then.
            flag: names the folder, for messages.

        Raises:
            UserError: another process, which the message names, has locked the
                folder, or the folder cannot be written to.
        """
        self._path = directory / LOCK
        try:
            self._file = self._take()
        except BlockingIOError as error:
            raise UserError(
                f"{directory} is in use by {self._holder() or 'another process'}, "
                f"wanted another folder for each run, see {flag}"
            ) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise UserError(
                    f"{directory} cannot be written to ({error.strerror}), wanted a "
                    f"folder that can, see {flag}"
                ) from error
            self._file = os.open(self._path, os.O_RDWR)
            report(
                f"the filesystem of {directory} has no locks ({error.strerror}): "
                "start no second run in this folder"
            )
        with suppress(OSError):  # on a full disk the lock holds, though without a name
            os.ftruncate(self._file, 0)
            holder = f"process {os.getpid()} of {socket.gethostname()}"
            os.write(self._file, holder.encode())

    def release(self) -> None:
        """Unlocks the folder, and removes it if it holds nothing else."""
        with suppress(OSError):
            if os.listdir(self._path.parent) == [LOCK]:
                self._path.unlink()
                self._path.parent.rmdir()
        os.close(self._file)

    def _take(self) -> int:
        while True:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The process that released the lock may have removed its file: lock a
                # new file.
                if os.path.samestat(os.fstat(file), os.stat(self._path)):
                    return file
            except FileNotFoundError:
                pass
            except OSError:
                os.close(file)
                raise
            os.close(file)

    def _holder(self) -> str:
        with suppress(OSError):
            return self._path.read_text(errors="replace").strip()
        return ""
