"""Private folders for unfinished output, which are removed even after a process was killed.

Each contains a file that is locked while its process runs. The system releases the lock when the process ends, however
it ends, so a folder whose lock can be taken is abandoned. Process numbers alone would not do: two containers both have
a process 1. On a file system without locks, number and start time of the process decide.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nodulens.errors import BadOption, CannotWrite, as_input_error, input_errors

POSIX = os.name == "posix"
LOCK = "lock"
PARTIAL = ".nodulens.partial"
"""Name of the private folder in an output folder while a run writes it."""
PREFIX = "nodulens-"
_MAKING = ".nodulens.making-"
# Errors of systems and file systems without locks.
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
_OLD_S = 3600


@contextmanager
def private_folder(home: Path | None = None, *, hidden: bool = False, owner: Path | None = None) -> Iterator[Path]:
    """A new folder with mode 0700, removed when the block ends.

    First removes folders that ended processes left in the same place.

    Args:
        home: where it is made; None for the system's temporary folder.
        hidden: whether its name begins with a dot.
        owner: what it is for, for messages.

    Raises:
        CannotWrite: nothing can be written there.
    """
    home = Path(tempfile.gettempdir()) if home is None else home
    prefix = f".{PREFIX}" if hidden else PREFIX
    sweep(home, prefix)
    with claimed_folder(home / f"{prefix}{_process()}-{secrets.token_hex(4)}", owner or home) as folder:
        yield folder


@contextmanager
def claimed_folder(path: Path, owner: Path | None = None) -> Iterator[Path]:
    """A new folder of the given name, mode 0700, locked by this process and removed when the block ends.

    One that an ended process left is replaced.

    Args:
        path: of the folder.
        owner: the output it is for, for messages.

    Raises:
        CannotWrite: another process has locked it, or nothing can be written there.
    """
    owner = owner or path
    try:
        handle = _claimed(path, owner)
    except OSError as error:
        error.filename = error.filename2 = str(owner)  # not the private name
        raise as_input_error(error, writing=owner) or error from error
    try:
        yield path
    finally:
        _remove(path, handle)


@contextmanager
def claimed_beside(target: Path) -> Iterator[Path]:
    """A private folder beside a target that does not exist yet, locked for it: of two runs one gets it.

    Raises:
        CannotWrite: as :func:`claimed_folder`.
    """
    sweep(target.parent, PARTIAL)
    name = f"{PARTIAL}-{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}"
    with claimed_folder(target.parent / name, target) as folder:
        yield folder


@contextmanager
def own_folder(folder: Path) -> Iterator[Path]:
    """A folder, created with its parents if needed, that no other run of nodulens writes meanwhile.

    Folders created here are removed again if the block leaves them empty.

    Yields:
        a private folder in it, for unfinished files.

    Raises:
        BadOption: there is a file or a dangling link of this name.
        CannotWrite: nothing can be written there, or another run is writing there.
    """
    folder = folder.absolute()
    made = folders_made(folder)
    try:
        with claimed_folder(folder / PARTIAL, folder) as staging:
            yield staging
    finally:
        remove_empty(made)


def check_folder(folder: Path) -> None:
    """Check before the work that an output folder can be created and written.

    Raises:
        BadOption, CannotWrite: as :func:`own_folder`, except for another run, which may end before this one writes.
    """
    there = nearest(folder.absolute())
    with private_folder(there, hidden=True):
        pass


def nearest(folder: Path) -> Path:
    """The folder itself if it exists, else its nearest existing parent.

    Raises:
        BadOption: that is a file or a dangling link.
        CannotWrite: a name is too long.
    """
    with input_errors(writing=folder):
        there = next(path for path in (folder, *folder.parents) if os.path.exists(path) or path.is_symlink())
    if not there.is_dir():
        kind = "a file" if there.exists() else "a link to nothing"
        raise BadOption(f"{there} is {kind}; name a folder for the outputs, or remove it first.")
    return there


def folders_made(folder: Path) -> tuple[Path, ...]:
    """Create a folder with its parents, and return those that are new, the deepest first.

    Raises:
        BadOption, CannotWrite: as :func:`nearest`; also where nothing can be written.
    """
    there = nearest(folder)
    with input_errors(writing=folder):
        folder.mkdir(parents=True, exist_ok=True)
    return tuple(path for path in (folder, *folder.parents) if path != there and path.is_relative_to(there))


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove the empty ones among some folders, in the order given."""
    for folder in folders:
        with suppress(OSError):  # not empty
            folder.rmdir()


def sweep(home: Path, prefix: str = PREFIX) -> None:
    """Remove private folders of ended processes whose names begin with ``prefix``."""
    with suppress(OSError):
        for path in list(home.iterdir()):
            if path.name.startswith(prefix) and path.is_dir():
                discard(path)
            elif path.name.startswith(_MAKING) and _is_ours(path) and _age_s(path) > _OLD_S:
                shutil.rmtree(path, ignore_errors=True)  # its process was killed before it wrote anything


def sweep_temporary() -> None:
    """:func:`sweep` of the system's temporary folder, the default place of :func:`private_folder`."""
    sweep(Path(tempfile.gettempdir()))


def discard(path: Path) -> bool:
    """Remove a private folder if its process has ended; return whether it is gone."""
    handle = _abandoned(path)
    if handle is not None:
        _remove(path, handle)
    elif _is_ours(path):
        with suppress(OSError):  # removes only an empty one, whose process was killed while removing it
            path.rmdir()
    return not path.exists()


def _claimed(path: Path, owner: Path) -> int:
    """Create the folder, and return the handle that locks it. It is renamed to ``path`` once it is locked."""
    making = path.with_name(f"{_MAKING}{secrets.token_hex(8)}")
    if not POSIX:  # a folder with an open file cannot be renamed
        _refuse_taken(path, owner)
        making = path
    making.mkdir(mode=0o700)
    handle = -1
    try:
        handle = os.open(making / LOCK, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(handle, _process().encode("ascii"))
        _lock(handle)
        if making != path:
            try:
                os.rename(making, path)  # fails if a folder of this name is not empty
            except OSError:
                _refuse_taken(path, owner)
                os.rename(making, path)
        return handle
    except BaseException:
        if handle >= 0:
            os.close(handle)
        shutil.rmtree(making, ignore_errors=True)
        raise


def _refuse_taken(path: Path, owner: Path) -> None:
    """Remove the folder if an ended process left it.

    Raises:
        CannotWrite: another process has locked it.
    """
    if path.is_dir() and not path.is_symlink() and not discard(path):
        raise CannotWrite(f"Another run, {_holder(path)}, is writing {owner}; wait for it, or choose another place.")


def _abandoned(path: Path) -> int | None:
    """A handle that locks a folder left by an ended process, else None."""
    if not _is_ours(path):
        return None
    try:
        handle = os.open(path / LOCK, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return None
    try:
        locked = _lock(handle)
        # Another process may have replaced it between opening and locking.
        same = os.path.samestat(os.fstat(handle), os.stat(path / LOCK))
        if same and (locked or not _lives(os.read(handle, 100).decode("ascii", "replace"))):
            return handle
    except OSError:
        pass
    os.close(handle)
    return None


def _remove(path: Path, handle: int) -> None:
    """Remove a locked folder; the lock file goes last."""
    with suppress(OSError):
        for entry in list(path.iterdir()):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            elif entry.name != LOCK:
                entry.unlink(missing_ok=True)
    if not POSIX:  # an open file cannot be removed
        os.close(handle)
    shutil.rmtree(path, ignore_errors=True)
    if POSIX:
        os.close(handle)


def _is_ours(path: Path) -> bool:
    """Whether a path is a folder, not a link to one, and owned by this user."""
    try:
        known = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(known.st_mode) and (not POSIX or known.st_uid == os.geteuid())


def _age_s(path: Path) -> float:
    return time.time() - path.lstat().st_mtime


def _lock(handle: int) -> bool:
    """Lock a file; False if the file system has no locks.

    Raises:
        OSError: another process has locked it.
    """
    if sys.platform == "win32":
        import msvcrt

        os.lseek(handle, 1000, os.SEEK_SET)  # beyond the content: locked bytes cannot be read
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        os.lseek(handle, 0, os.SEEK_SET)
        return True
    import fcntl

    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return False
        raise
    return True


def _process() -> str:
    """Number and start time of this process."""
    return f"{os.getpid()}-{_started(os.getpid())}"


def _started(number: int) -> str:
    """Start time of a process in ticks since boot; "0" if it is unknown or there is no such process."""
    try:
        # The program's name, in parentheses, may contain anything.
        return Path(f"/proc/{number}/stat").read_text("ascii", "replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return "0"


def _lives(process: str) -> bool:
    """Whether the process that wrote :func:`_process` may still run; True if that is unknown."""
    number, _, start = process.partition("-")
    if not number.isdigit() or not POSIX:
        return True
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return start in ("0", _started(int(number)))


def _holder(path: Path) -> str:
    with suppress(OSError):
        return f"process {(path / LOCK).read_text('ascii', 'replace').partition('-')[0]}"
    return "process unknown"
