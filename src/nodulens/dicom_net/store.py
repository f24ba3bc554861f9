"""C-STORE: the DICOM protocol of archives and workstations (PS3.4, annex B; PS3.7, 9.1.1), by pynetdicom."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from nodulens.dicom_net.outgoing import NOT_SENT, UNREADABLE, Outgoing, Sent, unread
from nodulens.errors import BadOption, CannotSend, MissingExtra

CONTEXTS = 128
"""Presentation contexts that one association can propose (PS3.8, 9.3.2.2)."""
SECONDS = 30.0
"""How long to wait for a connection, and for an answer to a request to associate."""
SECONDS_A_FILE = 300.0
"""How long to wait for an answer to a file: an archive may be slow to store a large one."""
LONGEST_TITLE = 16


@dataclass(frozen=True)
class Node:
    """An application entity to send to.

    Attributes:
        host: name or address.
        port: 1 to 65535.
        called: its AE title.
        calling: ours.
        tls: by TLS, the node's certificate checked against the system's authorities and its host name.

    Raises:
        BadOption: a title that is empty, longer than 16 characters or not of printable ASCII; a port out of range.
    """

    host: str
    port: int
    called: str = "ANY-SCP"
    calling: str = "NODULENS"
    tls: bool = False

    def __post_init__(self) -> None:
        for title in (self.called, self.calling):
            if not title.strip() or len(title) > LONGEST_TITLE or not (title.isascii() and title.isprintable()):
                raise BadOption(
                    f"An AE title is 1 to {LONGEST_TITLE} letters, digits and signs of ASCII, got {title!r}."
                )
        if not 1 <= self.port <= 65535:
            raise BadOption(f"A port is 1 to 65535, got {self.port}.")


def c_store(files: Sequence[Outgoing], node: Node) -> Iterator[Sent]:
    """Send files, each in the transfer syntax that it has: the bytes of its data set, unread and unchanged.

    A kind of object and a syntax that the other side does not take together is a refusal of those files alone. Where
    the connection ends at a file, as some archives do at a damaged one, the next go by another connection; where there
    is none to be had, every file that is left is reported as not sent.

    Raises:
        MissingExtra: pynetdicom is not installed.
        CannotSend: nobody answers there, or the association is rejected.
    """
    begun = False
    for part in _by_contexts(files):
        left = part
        while left:
            try:
                with _associated(left, node) as association:
                    begun = True
                    for sent in _over(association, left, node):
                        left = left[1:]
                        yield sent
            except CannotSend:
                if not begun:
                    raise
                yield from (Sent(file.path, False, NOT_SENT) for file in left)
                left = []


def _over(association: Any, files: Sequence[Outgoing], node: Node) -> Iterator[Sent]:
    """What becomes of files, at least one, until the connection ends."""
    accepted = {(one.abstract_syntax, one.transfer_syntax[0]) for one in association.accepted_contexts}
    for number, file in enumerate(files, start=1):
        if (file.sop_class, file.transfer_syntax) not in accepted:
            yield Sent(file.path, False, f"refused: {node.called} takes no {_named(file)}")
            continue
        sent = _stored(file, association, number % 65536) if association.is_established else None
        if sent is not None or number == 1:
            yield sent or Sent(file.path, False, NOT_SENT)
        if sent is None or sent.words == NOT_SENT:
            return  # before pynetdicom knows: it would wait for the next answer all the time allowed


def _by_contexts(files: Sequence[Outgoing]) -> Iterator[list[Outgoing]]:
    """Parts whose kinds and syntaxes one association can propose."""
    part: list[Outgoing] = []
    pairs: set[tuple[str, str]] = set()
    for file in files:
        pair = (file.sop_class, file.transfer_syntax)
        if pair not in pairs and len(pairs) == CONTEXTS:
            yield part
            part, pairs = [], set()
        part.append(file)
        pairs.add(pair)
    if part:
        yield part


@contextmanager
def _associated(files: Sequence[Outgoing], node: Node) -> Iterator[Any]:
    """An association for these files, released at the end."""
    try:
        from pynetdicom import AE, _config, build_context
    except ImportError as error:
        raise MissingExtra("send", "pynetdicom") from error
    entity = AE(node.calling)
    entity.connection_timeout = entity.acse_timeout = SECONDS
    entity.dimse_timeout = entity.network_timeout = SECONDS_A_FILE
    pairs = dict.fromkeys((file.sop_class, file.transfer_syntax) for file in files)
    contexts = [build_context(kind, syntax) for kind, syntax in pairs]
    secured = (ssl.create_default_context(), node.host) if node.tls else None
    association = entity.associate(node.host, node.port, contexts, node.called, tls_args=secured)
    if not association.is_established:
        raise CannotSend(_why_not(association, node))
    before, _config.STORE_SEND_CHUNKED_DATASET = _config.STORE_SEND_CHUNKED_DATASET, True
    try:
        yield association
    finally:
        _config.STORE_SEND_CHUNKED_DATASET = before
        if association.is_established:
            association.release()


def _stored(file: Outgoing, association: Any, number: int) -> Sent:
    from pynetdicom.status import STORAGE_SERVICE_CLASS_STATUS as KNOWN

    try:
        answer = association.send_c_store(file.path, msg_id=number)
    except (*UNREADABLE, OSError) as error:
        return Sent(file.path, False, unread(error))
    if "Status" not in answer:
        return Sent(file.path, False, NOT_SENT)
    status = int(answer.Status)
    category, meaning = KNOWN.get(status, ("Failure", ""))
    told = "; ".join(part for part in (meaning, str(answer.get("ErrorComment") or "")) if part)
    words = f"{status:04X}H{' ' if told else ''}{told}"
    if status == 0:
        return Sent(file.path, True)
    return Sent(file.path, True, words) if category == "Warning" else Sent(file.path, False, f"refused: {words}")


def _why_not(association: Any, node: Node) -> str:
    where = f"{node.host}:{node.port}"
    if association.is_rejected:
        answer = association.acceptor.primitive
        reason = getattr(answer, "reason_str", "no reason given").lower()
        return (
            f"{where} rejects the association ({reason}). Check --called {node.called} and --aet {node.calling}: the "
            "archive must know both."
        )
    if association.requestor.primitive is not None and association.acceptor.primitive is not None:
        return f"{where} accepts none of the kinds of objects and transfer syntaxes of these files."
    check = "Check host and port, and that the archive is running"
    if node.tls:
        check += " with TLS and a certificate that is trusted here (SSL_CERT_FILE names a file of other authorities)"
    return f"Nobody answers as a DICOM node at {where}. {check}."


def _named(file: Outgoing) -> str:
    from pydicom.uid import UID

    return f"{UID(file.sop_class).name} in {UID(file.transfer_syntax).name}"
