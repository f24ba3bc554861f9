"""DICOM objects beside a report, as a person asks for them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from nodulens.core.volume import Volume
from nodulens.errors import BadOption
from nodulens.report.record import Report


@dataclass(frozen=True)
class Wanted:
    """Which objects to write, and for whom.

    Attributes:
        kinds: as typed, separated by commas; empty: none.
        pseudonym: None: for the patient of the scan.
    """

    kinds: tuple[str, ...]
    pseudonym: str | None

    def writer(self, report: Report, scan: Volume) -> Callable[[Path], None] | None:
        """What writes them into a folder; None where there are none to write, and a line then says why not."""
        if not self.kinds:
            return None
        from datetime import datetime

        from nodulens.dicom_objects.study import context_of
        from nodulens.dicom_objects.write import write_objects

        context = context_of(scan, datetime.now(), self.pseudonym)
        if isinstance(context, str):
            print(f"nodulens: no DICOM objects: {context}.", file=sys.stderr)
            return None
        return partial(write_objects, report, context, self.kinds)


def typed_objects(kinds: str, none: bool, deidentified: bool, case: str | None) -> Wanted:
    """Objects as typed.

    Args:
        kinds: "seg,sr,sc".
        none: no objects.
        deidentified: for the pseudonym ``case``.
        case: pseudonym of the report.

    Raises:
        BadOption: an unknown kind, "sr" without "seg", or no pseudonym.
    """
    if deidentified and case is None:
        raise BadOption("--deidentified needs the pseudonym that the objects are for: --case NAME.")
    if none:
        return Wanted((), None)
    from nodulens.dicom_objects.kinds import check_kinds

    wanted = tuple(word.strip() for word in kinds.split(",") if word.strip())
    check_kinds(wanted)
    return Wanted(wanted, case if deidentified else None)
