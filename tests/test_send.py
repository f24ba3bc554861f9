"""Sending: to a real archive and back byte for byte, and what is said where something is refused or nobody answers."""

from __future__ import annotations

import io
import json
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom.filereader import _read_file_meta_info
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    MediaStorageDirectoryStorage,
)

from conftest import Run, refused
from dicom_files import save, slices
from nodulens.dicom_net.outgoing import NOT_SENT, Outgoing, outgoing, sorted_out
from nodulens.dicom_net.store import CONTEXTS, Node, _by_contexts, c_store
from nodulens.dicom_net.stow import stow
from nodulens.errors import CannotSend, MissingExtra
from orthanc import TITLE, Orthanc, free_port
from small_scans import noisy

CT_COUNT = 4


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few slices of a CT, each compressed in another way, beside a text."""
    folder = tmp_path_factory.mktemp("scan")
    made = slices(noisy().hu[:CT_COUNT])
    for data, syntax in zip(made, (None, JPEGLSLossless, JPEG2000Lossless, None), strict=True):
        if syntax is not None:
            plugin = "pyjpegls" if syntax == JPEGLSLossless else "pylibjpeg"
            data.compress(syntax, encoding_plugin=plugin, generate_instance_uid=False)
    save(folder, made)
    (folder / "notes.txt").write_text("not DICOM")
    return folder


def uid_of(path: Path) -> str:
    return str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID)


def files_of(folder: Path) -> list[Outgoing]:
    return sorted_out(sorted(folder.glob("*.dcm")))[0]


def data_set(content: bytes) -> bytes:
    """A file after its header, which each application writes for itself (PS3.10, 7.1)."""
    file = io.BytesIO(content)
    file.seek(132)
    _read_file_meta_info(file)
    return content[file.tell() :]


# ---- To a real archive


@pytest.fixture
def archive(orthanc: Orthanc) -> Orthanc:
    """Orthanc, empty."""
    pytest.importorskip("pynetdicom", reason="needs pip install 'nodulens[send]'")
    orthanc.empty()
    return orthanc


def test_c_store_gives_the_data_sets_back(run: Run, archive: Orthanc, analysed: Path, scan: Path) -> None:
    """Byte for byte, each in the syntax that it had; files that are no DICOM stay here."""
    for folder in (analysed, scan):
        done = run("send", folder, "127.0.0.1", archive.dicom_port, "--called", TITLE, "--aet", "TESTS")
        assert done.code == 0, done
        assert done.err.count("no DICOM are not sent") == 1
        assert all(line.endswith(": stored") for line in done.out.splitlines())
    sent = [*(analysed / "dicom").iterdir(), *scan.glob("*.dcm")]
    held = archive.held()
    assert held.keys() == {uid_of(path) for path in sent} and len(sent) >= CT_COUNT + 5
    for path in sent:
        assert data_set(held[uid_of(path)]) == data_set(path.read_bytes()), path.name
        assert pydicom.dcmread(io.BytesIO(held[uid_of(path)])).file_meta.TransferSyntaxUID == (
            pydicom.dcmread(path).file_meta.TransferSyntaxUID
        )


def test_stow_gives_the_files_back(run: Run, archive: Orthanc, analysed: Path, scan: Path) -> None:
    """Byte for byte, with their headers."""
    for folder in (analysed, scan):
        done = run("send", folder, "--stow", archive.web)
        assert done.code == 0, done
        assert all(line.endswith(": stored") for line in done.out.splitlines())
    sent = [*(analysed / "dicom").iterdir(), *scan.glob("*.dcm")]
    held = archive.held()
    assert held.keys() == {uid_of(path) for path in sent}
    for path in sent:
        assert held[uid_of(path)] == path.read_bytes(), path.name


def test_the_archive_finds_the_objects_in_the_study_of_the_scan(run: Run, archive: Orthanc, analysed: Path) -> None:
    """One study, a series for each kind, with the modalities that viewers look for."""
    assert run("send", analysed / "dicom", "--stow", archive.web).code == 0
    (study,) = json.loads(archive.get("/studies?expand"))
    series = [json.loads(archive.get(f"/series/{name}"))["MainDicomTags"] for name in study["Series"]]
    assert sorted(one["Modality"] for one in series) == ["OT", "RTSTRUCT", "SEG", "SR"]


def test_an_archive_of_another_name_rejects(run: Run, archive: Orthanc, scan: Path) -> None:
    done = run("send", scan, "127.0.0.1", archive.dicom_port, "--called", "ELSEWHERE")
    assert done.code == 1 and done.out == ""
    assert "rejects the association (called ae title not recognised)" in done.err
    assert "--called ELSEWHERE" in done.err


def test_an_address_without_a_service(run: Run, archive: Orthanc, scan: Path) -> None:
    done = run("send", scan, "--stow", f"{archive.url}/nothing")
    assert done.code == 1 and "HTTP 404" in done.err and "before /studies" in done.err


def test_what_the_archive_does_not_know_is_refused_alone(
    run: Run, archive: Orthanc, scan: Path, tmp_path: Path
) -> None:
    """Of two files, one is of a kind of its own."""
    data = pydicom.dcmread(shutil.copy(sorted(scan.glob("*.dcm"))[0], tmp_path / "a.dcm"))
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.826.0.1.3680043.8.498.1"
    data.save_as(tmp_path / "b.dcm")
    done = run("send", tmp_path, "127.0.0.1", archive.dicom_port, "--called", TITLE)
    first, second = done.out.splitlines()
    assert done.code == 1 and first.endswith("a.dcm: stored")
    assert second.endswith("refused: ORTHANC takes no 1.2.826.0.1.3680043.8.498.1 in Explicit VR Little Endian")
    assert "1 of 2 files are not stored" in done.err


# ---- To nodes that refuse


Answer = Callable[[Any], int]


@pytest.fixture
def node() -> Iterator[Callable[..., Node]]:
    """Starts a storage node that answers as it is told."""
    pynetdicom = pytest.importorskip("pynetdicom", reason="needs pip install 'nodulens[send]'")
    servers = []

    def start(answer: Answer, kinds: dict[str, list[str]], secured: ssl.SSLContext | None = None) -> Node:
        entity = pynetdicom.AE("TESTS")
        for kind, syntaxes in kinds.items():
            entity.add_supported_context(kind, syntaxes)
        handlers = [(pynetdicom.evt.EVT_C_STORE, answer)]
        place = ("127.0.0.1", 0)
        servers.append(entity.start_server(place, block=False, evt_handlers=handlers, ssl_context=secured))
        return Node("127.0.0.1", servers[-1].server_address[1], "TESTS", tls=secured is not None)

    yield start
    for server in servers:
        server.shutdown()


EVERY = {CTImageStorage: [ExplicitVRLittleEndian, JPEGLSLossless, JPEG2000Lossless]}


def test_each_file_has_its_status(node: Callable[..., Node], scan: Path) -> None:
    statuses = iter((0x0000, 0xA700, 0xB000, 0xC123))
    sent = list(c_store(files_of(scan), node(lambda event: next(statuses), EVERY)))
    assert [one.stored for one in sent] == [True, False, True, False]
    assert sent[0].words == "" and sent[2].words.startswith("B000H")
    assert sent[1].words.startswith("refused: A700H") and sent[3].words.startswith("refused: C123H")


def test_what_a_node_does_not_take_is_refused_alone(node: Callable[..., Node], scan: Path) -> None:
    there = node(lambda event: 0, {CTImageStorage: [ExplicitVRLittleEndian]})
    sent = list(c_store(files_of(scan), there))
    assert [one.stored for one in sent] == [True, False, False, True]
    assert sent[1].words == "refused: TESTS takes no CT Image Storage in JPEG-LS Lossless Image Compression"


def test_a_node_that_takes_none_of_it(node: Callable[..., Node], scan: Path) -> None:
    there = node(lambda event: 0, {CTImageStorage: ["1.2.840.10008.1.2"]})
    with pytest.raises(CannotSend, match="accepts none of the kinds"):
        list(c_store(files_of(scan), there))


def test_a_connection_that_ends(node: Callable[..., Node], scan: Path) -> None:
    """The file at which it ended is not sent, those after it go by another."""
    number = iter(range(10))

    def answer(event: Any) -> int:
        if next(number) == 1:
            event.assoc.dul.socket.socket.shutdown(socket.SHUT_RDWR)
        return 0

    sent = list(c_store(files_of(scan), node(answer, EVERY)))
    assert [one.stored for one in sent] == [True, False, True, True] and sent[1].words == NOT_SENT


def test_a_node_that_goes_away(node: Callable[..., Node], scan: Path) -> None:
    """What was stored is said, and that the rest was not sent."""
    number = iter(range(10))

    def answer(event: Any) -> int:
        if next(number) == 1:
            event.assoc._server.socket.close()
            event.assoc.dul.socket.socket.shutdown(socket.SHUT_RDWR)
        return 0

    first, *rest = c_store(files_of(scan), node(answer, EVERY))
    assert first.stored and {one.words for one in rest} == {NOT_SENT} and len(rest) == CT_COUNT - 1


def test_by_tls(node: Callable[..., Node], scan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A certificate that is not trusted is no way to send; one that is trusted is."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    make = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=tests -addext subjectAltName=IP:127.0.0.1"
    subprocess.run([*make.split(), "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    there = node(lambda event: 0, EVERY, context)
    with pytest.raises(CannotSend, match="certificate that is trusted"):
        list(c_store(files_of(scan), there))
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert all(one.stored for one in c_store(files_of(scan), there))
    with pytest.raises(CannotSend, match="Nobody answers"):
        list(c_store(files_of(scan), replace(there, tls=False)))


def test_nobody_there(run: Run, scan: Path) -> None:
    pytest.importorskip("pynetdicom", reason="needs pip install 'nodulens[send]'")
    done = run("send", scan, "127.0.0.1", free_port())
    assert done.code == 1 and done.out == "" and "Nobody answers as a DICOM node at 127.0.0.1" in done.err


def test_more_kinds_than_one_association_can_propose() -> None:
    files = [Outgoing(Path(str(n)), f"1.2.{n % 200}", f"1.3.{n}", "1.2.840.10008.1.2") for n in range(400)]
    parts = list(_by_contexts(files))
    assert [file for part in parts for file in part] == files
    assert all(len({(f.sop_class, f.transfer_syntax) for f in part}) <= CONTEXTS for part in parts)


# ---- To web services that refuse


@pytest.fixture
def service() -> Iterator[Callable[..., str]]:
    """Starts a web service with a list of answers: status, and JSON or nothing; after the last it hangs up."""
    pytest.importorskip("dicomweb_client", reason="needs pip install 'nodulens[send]'")
    servers: list[ThreadingHTTPServer] = []

    def start(*answers: tuple[int, Any]) -> str:
        left = iter(answers)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["Content-Length"]))
                status, told = next(left, (0, None))
                if not status:
                    self.close_connection = True
                    return
                body = b"" if told is None else json.dumps(told).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/dicom+json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/dicom-web"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def failed(reason: int) -> dict[str, Any]:
    """A Store Instances Response with one instance that was not stored."""
    return {"00081198": {"vr": "SQ", "Value": [{"00081197": {"vr": "US", "Value": [reason]}}]}}


def test_web_answers_are_statuses(service: Callable[..., str], scan: Path) -> None:
    warned = {"00081199": {"vr": "SQ", "Value": [{"00081196": {"vr": "US", "Value": [0xB000]}}]}}
    url = service((200, {}), (409, failed(0xA900)), (202, failed(0xC122)), (200, warned))
    sent = list(stow(files_of(scan), url))
    assert [one.stored for one in sent] == [True, False, False, True]
    assert [one.words for one in sent] == ["", "refused: HTTP 409 Conflict, A900H", "refused: C122H", "B000H"]


def test_one_answer_that_is_lost(service: Callable[..., str], scan: Path) -> None:
    sent = list(stow(files_of(scan), service((200, {}), (0, None), (200, {}), (200, {}))))
    assert [one.stored for one in sent] == [True, False, True, True] and sent[1].words == NOT_SENT


def test_a_service_that_goes_away(service: Callable[..., str], scan: Path) -> None:
    first, *rest = stow(files_of(scan), service((200, {})))
    assert first.stored and {one.words for one in rest} == {NOT_SENT} and len(rest) == CT_COUNT - 1


@pytest.mark.parametrize(("status", "words"), [(401, "netrc"), (403, "netrc"), (404, "before /studies")])
def test_services_that_store_nothing(service: Callable[..., str], scan: Path, status: int, words: str) -> None:
    with pytest.raises(CannotSend, match=words):
        list(stow(files_of(scan), service((status, None))))


def test_no_service_there(run: Run, scan: Path) -> None:
    pytest.importorskip("dicomweb_client", reason="needs pip install 'nodulens[send]'")
    done = run("send", scan, "--stow", f"http://127.0.0.1:{free_port()}/dicom-web")
    assert done.code == 1 and done.out == "" and "Nobody answers at http://127.0.0.1" in done.err


# ---- What is sent, and how it is asked for


def test_what_is_no_dicom_is_not_sent(tmp_path: Path, scan: Path) -> None:
    one = sorted(scan.glob("*.dcm"))[0]
    directory = pydicom.dcmread(one)
    directory.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    directory.save_as(tmp_path / "DICOMDIR")
    (tmp_path / "short").write_bytes(b"DICM")
    (tmp_path / "cut").write_bytes(one.read_bytes()[:140])
    (tmp_path / "empty").touch()
    shutil.copy(one, tmp_path / "whole")
    found, others = sorted_out(sorted(tmp_path.iterdir()))
    assert [file.path.name for file in found] == ["whole"]
    assert [path.name for path in others] == ["DICOMDIR", "cut", "empty", "short"]
    assert outgoing(tmp_path / "whole") == Outgoing(
        tmp_path / "whole", CTImageStorage, uid_of(one), ExplicitVRLittleEndian
    )


def test_nothing_to_send(run: Run, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no scan")
    refused(run("send", tmp_path, "127.0.0.1", 104), "nothing to send")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "Where to?"),
        (("127.0.0.1",), "Where to?"),
        (("127.0.0.1", 104, "--stow", "http://127.0.0.1/"), "Where to?"),
        (("127.0.0.1", 104, "--called", "SEVENTEEN_LETTERS"), "AE title"),
        (("127.0.0.1", 104, "--aet", " "), "AE title"),
        (("127.0.0.1", 104, "--aet", "KÖLN"), "AE title"),
        (("127.0.0.1", 70000), "A port is 1 to 65535"),
        (("--stow", "ftp://127.0.0.1/"), "address of a DICOMweb service"),
        (("--stow", "http://127.0.0.1/", "--tls"), "where its address is https"),
    ],
)
def test_places_that_make_no_sense(run: Run, scan: Path, words: tuple[str | int, ...], told: str) -> None:
    done = run("send", scan, *map(str, words))
    assert done.code == 2 and done.out == "" and told in done.err


@pytest.mark.parametrize("package", ["pynetdicom", "dicomweb_client"])
def test_a_missing_package_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch, scan: Path, package: str) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    sending = c_store(files_of(scan), Node("127.0.0.1", 104))
    if package == "dicomweb_client":
        sending = stow(files_of(scan), "http://127.0.0.1/dicom-web")
    with pytest.raises(MissingExtra, match=r"pip install 'nodulens\[send\]'"):
        list(sending)
