"""The OHIF viewer beside an archive, as one origin: its built pages, and the archive's DICOMweb service behind them."""

from __future__ import annotations

import http.client
import json
import mimetypes
import os
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from browser import Browser
from orthanc import Orthanc, needed

REPOSITORY = Path(__file__).resolve().parents[1]
SERVICE = "/dicom-web"
PASSED_ON = ("Accept", "Content-Type", "Content-Length")
SETTINGS = {
    "routerBasename": "/",
    "extensions": [],
    "modes": [],
    "showStudyList": True,
    "maxNumberOfWebWorkers": 1,
    "showWarningMessageForCrossOrigin": True,
    "showCPUFallbackMessage": True,
    "strictZSpacingForVolumeViewport": True,
    "investigationalUseDialog": {"option": "never"},
    "disableConfirmationPrompts": True,
    "defaultDataSourceName": "dicomweb",
    "dataSources": [
        {
            "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
            "sourceName": "dicomweb",
            "configuration": {
                "friendlyName": "Orthanc",
                "name": "orthanc",
                "wadoUriRoot": SERVICE,
                "qidoRoot": SERVICE,
                "wadoRoot": SERVICE,
                "qidoSupportsIncludeField": False,
                "imageRendering": "wadors",
                "thumbnailRendering": "wadors",
                "enableStudyLazyLoad": True,
                "supportsFuzzyMatching": False,
                "supportsWildcard": True,
                "omitQuotationForMultipartRequest": True,
                "bulkDataURI": {"enabled": True},
            },
        }
    ],
}


def built() -> Path:
    """The folder of the viewer's pages: in NODULENS_OHIF, or where ``make ohif`` puts them."""
    folder = Path(os.environ.get("NODULENS_OHIF", REPOSITORY / ".venv" / "ohif")) / "package" / "dist"
    found = str(folder) if (folder / "index.html").exists() else None
    return Path(needed(found, "no OHIF viewer: make ohif fetches it where npm is"))


class Viewer:
    """The viewer on a port of its own, until the block ends.

    Attributes:
        url: of its first page.
        answers: method, path and status of all that the archive was asked.
    """

    def __init__(self, archive: Orthanc) -> None:
        self.answers: list[tuple[str, str, int]] = []
        handler = type("Handler", (_Handler,), {"pages": built(), "archive": urlsplit(archive.url), "viewer": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Viewer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    pages: Path
    archive: Any
    viewer: Viewer

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path.startswith(SERVICE):
            self._from_archive()
        elif path == "/app-config.js":
            self._answer(200, "text/javascript", f"window.config = {json.dumps(SETTINGS)};".encode())
        else:
            file = self.pages / path.lstrip("/")
            if not file.is_file():
                file = self.pages / "index.html"  # its own router reads the address
            kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
            self._answer(200, "application/wasm" if file.suffix == ".wasm" else kind, file.read_bytes())

    def do_POST(self) -> None:
        self._from_archive()

    def log_message(self, *_: object) -> None:
        """Say nothing: :attr:`Viewer.answers` has what matters."""

    def _from_archive(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        link = http.client.HTTPConnection(self.archive.hostname, self.archive.port, timeout=120)
        # The archive writes addresses of bulk data by the host that was asked.
        told = {name: self.headers[name] for name in PASSED_ON if name in self.headers} | {"Host": self.headers["Host"]}
        try:
            link.request(self.command, self.path, body or None, told)
            answer = link.getresponse()
            content = answer.read()
        finally:
            link.close()
        self.viewer.answers.append((self.command, self.path, answer.status))
        self._answer(answer.status, answer.headers.get("Content-Type") or "application/octet-stream", content)

    def _answer(self, status: int, kind: str, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        # What the viewer needs for memory that its workers share.
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.end_headers()
        self.wfile.write(content)


# ---- What a reader does in it, and sees


VIEWPORT = "window.cornerstone.getRenderingEngines()[0].getViewports()[0]"
SEGMENTATIONS = "window.cornerstoneTools.segmentation.state.getSegmentations()"
NO_TOUR = "localStorage.setItem('shownTours', JSON.stringify(['basicViewerTour']))"


def waited(browser: Browser, expression: str, seconds: float = 400) -> None:
    """Wait until a JavaScript expression is true in the page; what it raises meanwhile is a page not yet there."""
    deadline, told = time.monotonic() + seconds, ""
    while time.monotonic() < deadline:
        try:
            if browser.run(expression):
                return
        except RuntimeError as error:
            told = str(error)
        time.sleep(0.5)
    raise TimeoutError(f"after {seconds:g} s it is not so: {expression} {told} {browser.problems[-3:]}")


def open_study(browser: Browser, viewer: Viewer, study: str) -> list[str]:
    """Open a study, and wait for its images; the modalities that are listed."""
    browser.call("Page.addScriptToEvaluateOnNewDocument", source=NO_TOUR)
    browser.call("Page.navigate", url=f"{viewer.url}/viewer?StudyInstanceUIDs={study}")
    waited(browser, f"{VIEWPORT}.getImageIds().length > 0 && {VIEWPORT}.getCornerstoneImage() != null")
    # Series without pictures are listed under their modality, the others have it as a label.
    waited(browser, "document.querySelectorAll('[data-cy^=study-browser-thumbnail]').length >= 4")
    labels = "[...document.querySelectorAll('[data-cy=series-modality-label]')].map(e => e.textContent.trim())"
    return sorted(browser.run(labels))


def _double_click(browser: Browser, modality: str) -> None:
    """Open what is listed without a picture."""
    browser.run(f"""
        [...document.querySelectorAll('[data-cy=study-browser-thumbnail-no-image]')]
            .find(e => e.textContent.includes({json.dumps(modality)})).querySelector('*')
            .dispatchEvent(new MouseEvent('dblclick', {{bubbles: true, cancelable: true, view: window}}))
    """)


def load_segmentation(browser: Browser) -> list[str]:
    """Open the SEG as a reader would, by a double click, until it lies over the images; the labels of its segments."""
    _double_click(browser, "SEG")
    shown = f"window.cornerstoneTools.segmentation.state.getSegmentationRepresentations({VIEWPORT}.id).length"
    waited(browser, f"{SEGMENTATIONS}.length == 1 && {shown} == 1")
    return list(browser.run(f"Object.values({SEGMENTATIONS}[0].segments).filter(Boolean).map(s => s.label)"))


def open_report(browser: Browser) -> list[str]:
    """Open the SR as a reader would, by a double click, until an outline lies over an image; what of it is loaded."""
    _double_click(browser, "SR")
    reports = "window.services.displaySetService.activeDisplaySets.filter(one => one.Modality == 'SR')"
    waited(
        browser, f"{VIEWPORT}.getCornerstoneImage() != null && document.querySelector('.svg-layer polyline') != null"
    )
    return list(browser.run(f"{reports}[0].measurements.filter(one => one.loaded).map(one => one.TrackingIdentifier)"))


def open_panel(browser: Browser) -> None:
    """Open the list of segments beside the images."""
    browser.run("document.querySelector('[data-cy=panelSegmentation-btn]').click()")
    waited(browser, "document.body.innerText.includes('Nodule 1')")


def hide(browser: Browser, labels: Sequence[str]) -> None:
    """Hide segments, as the eye beside each does in the list."""
    browser.run(f"""(() => {{
        const one = {SEGMENTATIONS}[0];
        Object.values(one.segments).filter(s => s && {json.dumps(list(labels))}.includes(s.label)).forEach(s =>
            window.services.segmentationService.toggleSegmentVisibility(
                {VIEWPORT}.id, one.segmentationId, s.segmentIndex, 'Labelmap'));
    }})()""")


def show_slice(browser: Browser, instance: str, places: Sequence[Sequence[float]]) -> list[tuple[int, int]]:
    """Scroll to an image, and wait until it is drawn; where places (LPS, mm) on it lie on the page, in pixels.

    Args:
        browser: with the study open.
        instance: SOP instance UID of the image.
        places: points on it.
    """
    browser.run(f"""(async () => {{
        const viewport = {VIEWPORT};
        await viewport.setImageIdIndex(viewport.getImageIds().findIndex(id => id.includes('/{instance}/')));
        viewport.render();
    }})()""")
    waited(browser, f"{VIEWPORT}.getCurrentImageId().includes('/{instance}/')")
    time.sleep(3)  # the overlay follows the image
    where = browser.run(f"""(() => {{
        const box = {VIEWPORT}.canvas.getBoundingClientRect();
        return {json.dumps([list(p) for p in places])}.map(p => {{
            const [x, y] = {VIEWPORT}.worldToCanvas(p);
            return [box.left + x, box.top + y];
        }});
    }})()""")
    return [(round(x), round(y)) for x, y in where]


def colour_of(browser: Browser, label: str) -> tuple[int, int, int]:
    """The colour (red, green, blue) that the viewer draws a segment in."""
    red, green, blue, _ = browser.run(f"""(() => {{
        const one = {SEGMENTATIONS}[0];
        const index = Object.values(one.segments).find(s => s && s.label == {json.dumps(label)}).segmentIndex;
        const colours = window.cornerstoneTools.segmentation.config.color;
        return [...colours.getSegmentIndexColor({VIEWPORT}.id, one.segmentationId, index)];
    }})()""")
    return red, green, blue
