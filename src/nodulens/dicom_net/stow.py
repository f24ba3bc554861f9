"""STOW-RS: the web service of archives (PS3.18, 10.5), by dicomweb-client."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydicom import dcmread
from pydicom.dataset import Dataset

from nodulens.dicom_net.outgoing import NOT_SENT, UNREADABLE, Outgoing, Sent, unread
from nodulens.errors import BadOption, CannotSend, MissingExtra

SECONDS = (30.0, 300.0)
"""How long to wait for a connection, and for an answer."""
WHOLE = 1 << 40
"""Bytes up to which a file is sent as one body with its length, which every server understands: any."""
GONE = 2
"""Files in a row without an answer after which the service is taken to be gone."""
FOR_NO_FILE = {401, 403, 404, 405, 501}
"""Answers that say that nothing may be stored there, whatever the file (PS3.18, 8.5)."""


def stow(files: Sequence[Outgoing], url: str) -> Iterator[Sent]:
    """Send files one by one, each in the transfer syntax that it has.

    Credentials for the host, where it asks for a name and a password, are taken from ``~/.netrc``.

    Args:
        files: to send.
        url: of the service, such as ``https://archive.example/dicom-web``, without ``/studies``.

    Raises:
        BadOption: no http or https address.
        MissingExtra: dicomweb-client is not installed.
        CannotSend: nobody answers there, or nothing may be stored.
    """
    client, lost = _client(url), 0
    for number, file in enumerate(files):
        try:
            data = dcmread(file.path)
        except (*UNREADABLE, OSError) as error:
            yield Sent(file.path, False, unread(error))
            continue
        try:
            sent = _sent(file, data, client)
        except OSError as error:  # of requests
            if number == 0:
                kind = type(error).__name__
                raise CannotSend(f"Nobody answers at {url} ({kind}). Check that the archive is running.") from error
            sent, lost = Sent(file.path, False, NOT_SENT), lost + 1
        else:
            lost = 0
        yield sent
        if lost == GONE:
            yield from (Sent(one.path, False, NOT_SENT) for one in files[number + 1 :])
            return


def _client(url: str) -> Any:
    if not url.startswith(("http://", "https://")):
        raise BadOption(f"--stow is the address of a DICOMweb service, such as https://archive/dicom-web; got {url!r}.")
    try:
        from dicomweb_client import DICOMwebClient
    except ImportError as error:
        raise MissingExtra("send", "dicomweb-client") from error
    try:
        client = DICOMwebClient(url.rstrip("/"), chunk_size=WHOLE, timeout=SECONDS)
    except ValueError as error:
        raise BadOption(f"{url} is no address of a DICOMweb service.") from error
    client.set_http_retry_params(retry=False)  # it would also wait half a minute for a host that is not there
    return client


def _sent(file: Outgoing, data: Dataset, client: Any) -> Sent:
    """What became of a file.

    Raises:
        CannotSend: nothing may be stored, whatever the file.
        OSError: the connection ended before an answer came.
    """
    try:
        return _outcome(file, client.store_instances([data]))
    except (*UNREADABLE, OSError) as error:
        response = getattr(error, "response", None)
        if response is None and isinstance(error, OSError):
            raise
        if response is None:
            return Sent(file.path, False, unread(error))
        status = f"HTTP {response.status_code} {response.reason}"
        if response.status_code in FOR_NO_FILE:
            raise CannotSend(_closed(client.base_url, response.status_code, status)) from error
        return Sent(file.path, False, f"refused: {status}{_told(response)}")


def _outcome(file: Outgoing, answer: Dataset) -> Sent:
    """What the answer, a Store Instances Response (PS3.18, 10.5.3), says of a file."""
    failed = answer.get("FailedSOPSequence") or []
    if failed:
        return Sent(file.path, False, f"refused: {int(failed[0].get('FailureReason') or 0):04X}H")
    for item in answer.get("ReferencedSOPSequence") or []:
        if item.get("WarningReason"):
            return Sent(file.path, True, f"{int(item.WarningReason):04X}H")
    return Sent(file.path, True)


def _told(response: Any) -> str:
    """The reason for the failure, where the body of an answer has it."""
    try:
        item = response.json()["00081198"]["Value"][0]["00081197"]["Value"][0]
    except (ValueError, KeyError, IndexError, TypeError):
        return ""
    return f", {int(item):04X}H"


def _closed(url: str, code: int, status: str) -> str:
    if code in (401, 403):
        return f"{url} does not let you store: {status}. Put name and password for the host into ~/.netrc."
    return f"Nothing can be stored at {url}: {status}. Check the address: it is the one before /studies."
