"""The OHIF viewer opens a study from Orthanc, lists our objects, and draws the segments where they belong."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

import nodulens as nl
from browser import Browser
from nodulens.dicom_net.outgoing import sorted_out
from nodulens.dicom_net.stow import stow
from ohif import VIEWPORT, Viewer, colour_of, hide, load_segmentation, open_report, open_study, show_slice
from orthanc import Orthanc

pytestmark = pytest.mark.browser


def chroma(pixels: np.ndarray) -> np.ndarray:
    """How far a colour is from grey, red, green and blue."""
    return np.asarray(pixels, float) - np.min(pixels)


def alike(seen: np.ndarray, colour: tuple[int, int, int]) -> float:
    """Cosine between what is seen beside grey, and a colour beside grey."""
    a, b = chroma(seen), chroma(np.array(colour))
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-9))


def seen(picture: Path, places: list[tuple[int, int]]) -> np.ndarray:
    """Red, green and blue of a picture at places (x, y)."""
    pixels = np.asarray(Image.open(picture).convert("RGB"), int)
    return np.array([pixels[row, column] for column, row in places])


def test_the_viewer_draws_the_segments_over_the_nodules(
    orthanc: Orthanc, dicom: Path, analysed: Path, tmp_path: Path
) -> None:
    pytest.importorskip("dicomweb_client", reason="needs pip install 'nodulens[send]'")
    orthanc.empty()
    files, _ = sorted_out(sorted([*dicom.iterdir(), *(analysed / "dicom").iterdir()]))
    assert all(one.stored for one in stow(files, orthanc.web))
    report = nl.from_json((analysed / "report.json").read_text("utf-8"))
    study = str(pydicom.dcmread(analysed / "dicom" / "seg.dcm", stop_before_pixels=True).StudyInstanceUID)
    nodule = max(report.nodules, key=lambda one: one.measurements.volume_mm3)
    instance = nodule.position.sop_instance_uid
    assert instance is not None
    with Viewer(orthanc) as viewer, Browser(webgl=True) as browser:
        browser.size(1280, 900)
        assert open_study(browser, viewer, study) == ["CT", "OT", "RTSTRUCT", "SEG", "SR"]
        labels = load_segmentation(browser)
        assert labels == ["Left lung", "Right lung", *(f"Nodule {one.id}" for one in report.nodules)]
        x, y, z = nodule.centre_lps
        beside = 1.5 * nodule.measurements.long_axis_mm
        places = show_slice(browser, instance, [(x, y, z), (x, y + beside, z), (0.0, -115.0, z)])
        names = (f"Nodule {nodule.id}", f"{nodule.position.side.capitalize()} lung")
        mark, lung = (colour_of(browser, name) for name in names)
        browser.picture(tmp_path / "all.png")
        hide(browser, ("Left lung", "Right lung"))
        time.sleep(3)
        browser.picture(tmp_path / "nodules.png")
        names = [*(f"Nodule {one.id}" for one in report.nodules), "Left lung", "Right lung"]
        assert open_report(browser) == names
        first = report.nodules[0]
        assert browser.run(f"{VIEWPORT}.getCurrentImageId().includes('/{first.position.sop_instance_uid}/')")
        words = browser.run("document.querySelector('.svg-layer').textContent")
        assert f"{first.measurements.long_axis_mm:.2f} mm" in words, "it opens at the first finding"
        assert not [answer for answer in viewer.answers if answer[2] >= 400]
    every, nodules = (seen(tmp_path / name, places) for name in ("all.png", "nodules.png"))
    assert alike(every[1], lung) > 0.97 and alike(every[1], lung) > alike(every[1], mark)
    assert alike(nodules[0], mark) > 0.97 and alike(nodules[0], mark) > alike(nodules[0], lung)
    assert np.ptp(every[2]) < 10 and np.ptp(nodules[1:], axis=1).max() < 10, "grey, without a segment"
