"""Private folders for unfinished output, which are removed even after a process was killed.

Each holds a locked file as long as its process lives. The system takes the lock away when the process ends, however it
ends, so whoever can take the lock knows that the folder is abandoned. That holds where process numbers do not: two
containers both have a process 1. Where a file system has no locks, number and start time of the process decide.
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
"""Name of the private folder in a folder of outputs that a run is writing."""
PREFIX = "nodulens-"
_MAKING = ".nodulens.making-"
# Systems and file systems without locks, as far as they say so.
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)
_OLD_S = 3600


@contextmanager
def private_folder(home: Path | None = None, *, hidden: bool = False, owner: Path | None = None) -> Iterator[Path]:
    """A new folder with mode 0700, removed when the block ends.

    What processes that are no more have left in the same place goes first.

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

    One that a process which is no more has left is replaced.

    Args:
        path: of the folder.
        owner: the output it is for, for messages.

    Raises:
        CannotWrite: another process holds it, or nothing can be written there.
    """
    owner = owner or path
    try:
        handle = _claimed(path, owner)
    except OSError as error:
        error.filename = error.filename2 = str(owner)  # and not a name that nobody has heard of
        raise as_input_error(error, writing=owner) or error from error
    try:
        yield path
    finally:
        _remove(path, handle)


@contextmanager
def claimed_beside(target: Path) -> Iterator[Path]:
    """A private folder beside a target that is not there yet, held for it: of two runs one gets it.

    Raises:
        CannotWrite: as :func:`claimed_folder`.
    """
    sweep(target.parent, PARTIAL)
    name = f"{PARTIAL}-{hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]}"
    with claimed_folder(target.parent / name, target) as folder:
        yield folder


@contextmanager
def own_folder(folder: Path) -> Iterator[Path]:
    """A folder, made with its parents where it is not there, that no other run of nodulens writes meanwhile.

    What was made is gone again where the block leaves nothing in it.

    Yields:
        a private folder in it, for what is half done.

    Raises:
        BadOption: there is a file or a dangling link of this name.
        CannotWrite: nothing can be written there, or another run is at work there.
    """
    folder = folder.absolute()
    made = folders_made(folder)
    try:
        with claimed_folder(folder / PARTIAL, folder) as staging:
            yield staging
    finally:
        remove_empty(made)


def check_folder(folder: Path) -> None:
    """Refuse, before the work, a folder for outputs that cannot be made or written into.

    Raises:
        BadOption, CannotWrite: as :func:`own_folder`, but for another run, which may end before this one writes.
    """
    there = nearest(folder.absolute())
    with private_folder(there, hidden=True):
        pass


def nearest(folder: Path) -> Path:
    """The folder itself, or of those that it would lie in the last that is there.

    Raises:
        BadOption: that is a file or a link to nothing.
        CannotWrite: a name is too long.
    """
    with input_errors(writing=folder):
        there = next(path for path in (folder, *folder.parents) if os.path.exists(path) or path.is_symlink())
    if not there.is_dir():
        kind = "a file" if there.exists() else "a link to nothing"
        raise BadOption(f"{there} is {kind}; name a folder for the outputs, or remove it first.")
    return there


def folders_made(folder: Path) -> tuple[Path, ...]:
    """Make a folder with its parents; those that were not there before, the deepest first.

    Raises:
        BadOption, CannotWrite: as :func:`nearest`; also where nothing can be written.
    """
    there = nearest(folder)
    with input_errors(writing=folder):
        folder.mkdir(parents=True, exist_ok=True)
    return tuple(path for path in (folder, *folder.parents) if path != there and path.is_relative_to(there))


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove those folders that hold nothing, in the order given."""
    for folder in folders:
        with suppress(OSError):  # it holds something by now
            folder.rmdir()


def sweep(home: Path, prefix: str = PREFIX) -> None:
    """Remove the private folders of processes that are no more, by the beginning of their names."""
    with suppress(OSError):
        for path in list(home.iterdir()):
            if path.name.startswith(prefix) and path.is_dir():
                discard(path)
            elif path.name.startswith(_MAKING) and _is_ours(path) and _age_s(path) > _OLD_S:
                shutil.rmtree(path, ignore_errors=True)  # killed before it held anything


def sweep_temporary() -> None:
    """:func:`sweep` of the system's temporary folder, where :func:`private_folder` makes its own."""
    sweep(Path(tempfile.gettempdir()))


def discard(path: Path) -> bool:
    """Remove a private folder of a process that has ended; whether it was removed."""
    handle = _abandoned(path)
    if handle is not None:
        _remove(path, handle)
    elif _is_ours(path):
        with suppress(OSError):  # only an empty one goes: its process was killed while it removed it
            path.rmdir()
    return not path.exists()


def _claimed(path: Path, owner: Path) -> int:
    """Make the folder, and the handle that holds its lock. It gets its name when it is locked, not before."""
    making = path.with_name(f"{_MAKING}{secrets.token_hex(8)}")
    if not POSIX:  # there a folder that holds an open file cannot be renamed
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
                os.rename(making, path)  # refused where a folder that is not empty bears the name
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
    """Make room where a process that is no more has left its folder.

    Raises:
        CannotWrite: another process holds it.
    """
    if path.is_dir() and not path.is_symlink() and not discard(path):
        raise CannotWrite(f"Another run, {_holder(path)}, is writing {owner}; wait for it, or choose another place.")


def _abandoned(path: Path) -> int | None:
    """A handle that holds the lock of a folder left by a process which is no more, else None."""
    if not _is_ours(path):
        return None
    try:
        handle = os.open(path / LOCK, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return None
    try:
        locked = _lock(handle)
        # Another may have swept it, and made one of this name, between the opening and the locking.
        same = os.path.samestat(os.fstat(handle), os.stat(path / LOCK))
        if same and (locked or not _lives(os.read(handle, 100).decode("ascii", "replace"))):
            return handle
    except OSError:
        pass
    os.close(handle)
    return None


def _remove(path: Path, handle: int) -> None:
    """Remove a folder while its lock is held; the lock file goes last."""
    with suppress(OSError):
        for entry in list(path.iterdir()):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            elif entry.name != LOCK:
                entry.unlink(missing_ok=True)
    if not POSIX:  # there an open file cannot be removed
        os.close(handle)
    shutil.rmtree(path, ignore_errors=True)
    if POSIX:
        os.close(handle)


def _is_ours(path: Path) -> bool:
    """Whether a path is a folder, no link to one, and belongs to this user."""
    try:
        known = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(known.st_mode) and (not POSIX or known.st_uid == os.geteuid())


def _age_s(path: Path) -> float:
    return time.time() - path.lstat().st_mtime


def _lock(handle: int) -> bool:
    """Take the lock of a file; False where the file system has none.

    Raises:
        OSError: another process holds it.
    """
    if sys.platform == "win32":
        import msvcrt

        os.lseek(handle, 1000, os.SEEK_SET)  # beyond what is written: locked bytes cannot be read
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
    """When a process started, in ticks since the system did; "0" where the system does not say or there is none."""
    try:
        # The name of the program, in parentheses, may hold anything.
        return Path(f"/proc/{number}/stat").read_text("ascii", "replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return "0"


def _lives(process: str) -> bool:
    """Whether the process that wrote :func:`_process` may still be there. Where that is not known, it may."""
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
