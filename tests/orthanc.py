"""A real archive for tests: Orthanc with its DICOMweb plugin, on ports of its own, storing into a temporary folder."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = ("/usr/sbin/Orthanc", "/usr/local/sbin/Orthanc", "/usr/local/bin/Orthanc")
PLUGINS = (Path("/usr/share/orthanc/plugins"), Path("/usr/local/share/orthanc/plugins"))
PLUGIN = "libOrthancDicomWeb.so"
TITLE = "ORTHANC"


def needed(found: str | None, message: str) -> str:
    """What was found. Where it is missing the test is skipped, but in CI it fails."""
    if found:
        return found
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def free_port() -> int:
    """A port of the loopback interface that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class Orthanc:
    """One archive, until the block ends.

    Attributes:
        dicom_port: for C-STORE; the AE title is :data:`TITLE`, and it is checked.
        url: of its own REST interface.
        web: of its DICOMweb service.
    """

    def __init__(self) -> None:
        program = shutil.which("Orthanc") or next((name for name in PROGRAMS if Path(name).exists()), None)
        self._program = needed(program, "no Orthanc: make orthanc installs it where apt has it")
        folder = next((str(folder) for folder in PLUGINS if (folder / PLUGIN).exists()), None)
        plugin = needed(folder, "no DICOMweb for Orthanc: make orthanc installs it where apt has it")
        self._home = tempfile.TemporaryDirectory(prefix="orthanc-", ignore_cleanup_errors=True)
        home = Path(self._home.name)
        self.dicom_port, http_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{http_port}"
        self.web = f"{self.url}/dicom-web"
        settings: dict[str, Any] = {
            "StorageDirectory": str(home / "storage"),
            "IndexDirectory": str(home / "storage"),
            "HttpPort": http_port,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomAet": TITLE,
            "DicomPort": self.dicom_port,
            "DicomCheckCalledAet": True,
            "StableAge": 1,
            "Plugins": [str(Path(plugin) / PLUGIN)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        (home / "orthanc.json").write_text(json.dumps(settings))
        self._log = (home / "log.txt").open("wb")
        self._process = subprocess.Popen(
            [self._program, str(home / "orthanc.json")], stdout=self._log, stderr=self._log, stdin=subprocess.DEVNULL
        )

    def __enter__(self) -> Orthanc:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                self.get("/system")
                return self
            except (urllib.error.URLError, OSError):
                time.sleep(0.1)
        told = Path(self._log.name).read_text(errors="replace")[-2000:]
        self.__exit__()
        raise RuntimeError(f"Orthanc did not start: {told}")

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._log.close()
        self._home.cleanup()

    def stop(self) -> None:
        """End it; what it has stored is lost."""
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def get(self, path: str) -> bytes:
        """What its REST interface answers."""
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            return bytes(answer.read())

    def held(self) -> dict[str, bytes]:
        """SOP instance UID → the file that it gives back, of all that it holds."""
        out = {}
        for name in json.loads(self.get("/instances")):
            uid = json.loads(self.get(f"/instances/{name}"))["MainDicomTags"]["SOPInstanceUID"]
            out[uid] = self.get(f"/instances/{name}/file")
        return out

    def empty(self) -> None:
        """Delete all that it holds."""
        for name in json.loads(self.get("/patients")):
            call = urllib.request.Request(f"{self.url}/patients/{name}", method="DELETE")
            with urllib.request.urlopen(call, timeout=30):
                pass
