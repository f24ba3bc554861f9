"""What went wrong, as a message and an exit code: 2 for what the user gave, 1 for a fault; and no end without cleaning.

Messages name files that were given, never their content. A fault is printed with its traceback, so that it can be
reported, but while a scan is being read without the messages of libraries, which may quote headers.
"""

from __future__ import annotations

import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TextIO

from nodulens.core.private import sweep_temporary
from nodulens.core.text import printable, printable_message
from nodulens.errors import NodulensError, as_input_error

_PACKAGE = Path(__file__).resolve().parents[1]
_READERS = _PACKAGE / "io"


@contextmanager
def errors_reported() -> Iterator[None]:
    """Turn what is raised in the block into a message on stderr and an exit code.

    A signal to end (SIGTERM, SIGHUP) unwinds the block, so that no temporary folder stays; what a process left that was
    killed without warning is swept away first.

    Raises:
        SystemExit: 2 for bad input, 1 for a fault or where whoever read the output has gone, 128 and its number for a
            signal.
    """
    sweep_temporary()
    before = {number: signal.signal(number, _end) for number in _signals()}
    try:
        with warnings.catch_warnings():
            warnings.showwarning = partial(_warn, show=warnings.showwarning)
            yield
    except BrokenPipeError:
        sys.exit(1)
    except Exception as error:
        _fail(error)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
    *,
    show: Callable[..., None],
) -> None:
    """Show a warning of ours as a line of text. Those of libraries are for who writes the program, and pydicom's repeat
    headers: they are shown only if Python is asked to (-W, PYTHONWARNINGS), and pydicom's never."""
    text = printable_message(str(message))
    if issubclass(category, UserWarning) and Path(filename).resolve().is_relative_to(_PACKAGE):
        print(f"nodulens: {text}", file=sys.stderr)
    elif sys.warnoptions and "pydicom" not in Path(filename).parts:
        show(text, category, filename, lineno, file, line)


def _fail(error: Exception) -> None:
    ours = error if isinstance(error, NodulensError) else as_input_error(error)
    if ours is not None:
        print(f"nodulens: {printable_message(str(ours))}", file=sys.stderr)
        sys.exit(2 if as_input_error(ours) else 1)
    for one in _chain(error):
        print("Traceback (most recent call last):", file=sys.stderr)
        print("".join(traceback.format_tb(one.__traceback__)), end="", file=sys.stderr)
        print(_sentence(one), end="\n\n", file=sys.stderr)
    print(f"nodulens: A fault in nodulens: {_sentence(error)}. Please report it with the lines above.", file=sys.stderr)
    sys.exit(1)


def _chain(error: BaseException) -> list[BaseException]:
    """The error after those that caused it."""
    context = None if error.__suppress_context__ else error.__context__
    cause = error.__cause__ or context
    return [*(_chain(cause) if cause is not None else ()), error]


def _sentence(error: BaseException) -> str:
    """Kind and message of an error; the kind alone where it comes from reading, or repeats a word that was typed."""
    kind, message = type(error).__name__, printable(str(error))
    read = any(Path(frame.filename).is_relative_to(_READERS) for frame in traceback.extract_tb(error.__traceback__))
    typed = any(len(word) > 2 and word in message for word in sys.argv[2:])
    return kind if read or typed or not message else f"{kind}: {message}"


def _signals() -> list[signal.Signals]:
    if threading.current_thread() is not threading.main_thread():
        return []  # Python lets no other thread say what a signal does
    return [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


def _end(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)
