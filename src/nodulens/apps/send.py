"""Sending DICOM files, and what became of each in lines."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

from nodulens.apps.bars import counter
from nodulens.core.text import printable, printable_message
from nodulens.dicom_net.outgoing import Outgoing, Sent, sorted_out
from nodulens.errors import BadOption, NoSeries
from nodulens.io.places import counted, opened_place

Sending = Callable[[Sequence[Outgoing]], Iterator[Sent]]


def sending(host: str | None, port: int | None, titles: tuple[str, str], tls: bool, url: str | None) -> Sending:
    """The way to send, as typed.

    Args:
        host, port: of a DICOM node.
        titles: AE titles, the node's and ours.
        tls: to the node by TLS.
        url: of a DICOMweb service.

    Raises:
        BadOption: neither a node nor an address, or both.
    """
    if url is not None and host is None:
        if tls:
            raise BadOption("--tls is for HOST and PORT; a DICOMweb service uses TLS where its address is https.")
        from nodulens.dicom_net.stow import stow

        return partial(stow, url=url)
    if url is None and host is not None and port is not None:
        from nodulens.dicom_net.store import Node, c_store

        return partial(c_store, node=Node(host, port, *titles, tls))
    raise BadOption("Where to? Give HOST and PORT of a DICOM node, or --stow URL of a DICOMweb service.")


def send(path: Path, send_all: Sending) -> bool:
    """Send what of a path is DICOM, and print a line for each file; whether all of it is stored.

    Raises:
        NoSeries: nothing of it is a DICOM file.
    """
    with opened_place(path) as place:
        found, others = sorted_out(place.files)
        if not found:
            raise NoSeries(f"Nothing in {path} is a DICOM file with a header, so there is nothing to send.")
        notes = list(place.warnings)
        if others:
            notes.append(counted("files that are no DICOM are not sent", [path.name for path in others]))
        for note in notes:
            print(f"nodulens: {printable_message(note)}", file=sys.stderr)
        done: list[Sent] = []
        try:
            with counter("send") as show:
                show(0, len(found))
                for sent in send_all(found):
                    done.append(sent)
                    show(len(done), len(found))
        finally:  # also of a sending that is cut short; after the bar, which would draw them into standard error
            for sent in done:
                print(_line(sent))
    lost = len(found) - sum(sent.stored for sent in done)
    if lost:
        print(f"nodulens: {lost} of {len(found)} files are not stored.", file=sys.stderr)
    return not lost


def _line(sent: Sent) -> str:
    words = f"stored{f', with a warning: {sent.words}' if sent.words else ''}" if sent.stored else sent.words
    return printable(f"{sent.path}: {words}")
