"""What pydicom raises of damaged objects, as errors that say which file to export again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nodulens.errors import UnreadableFile
from nodulens.io.dicom_header import FAULTS, line


@contextmanager
def damage_named(path: Path, what: str) -> Iterator[None]:
    """Say of an object that it is damaged where the block fails on its content.

    Args:
        path: of the file.
        what: the damaged part, such as "the report".

    Raises:
        UnreadableFile: with the fault.
    """
    try:
        yield
    except FAULTS as error:
        raise UnreadableFile(f"{path}: {what} is damaged or incomplete ({line(error)}); export it again.") from error
