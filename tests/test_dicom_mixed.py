"""Slices that carry one series UID without belonging together, and what is left out of a folder."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import FileDataset

from dicom_files import INTERCEPT, body, multiframe, pixels, same_scan, save, slices
from nodulens.errors import BadGeometry, MixedSeries, NoSeries, UnreadableFile
from nodulens.io import list_series, read


def changed(first: int, **changes: Any) -> list[FileDataset]:
    """A scan whose slices from ``first`` on have other attributes."""
    series = slices()
    for data in series[first:]:
        for keyword, value in changes.items():
            setattr(data, keyword, value)
    return series


def interleaved(**changes: Any) -> list[FileDataset]:
    """Two scans of one place, half a step apart, under one series UID."""
    series = slices()
    again = slices(**{**same_scan(series), **changes})
    for data in again:
        data.ImagePositionPatient[2] += 1.25
    return series + again


@pytest.mark.parametrize(
    ("changes", "listed"),
    [
        ({"Modality": "MR"}, r"mixes modalities: 8 of CT \(z −400\.00 to −382\.50 mm\), 4 of MR \(z −380\.00 to"),
        ({"PatientID": "Zyx"}, r"mixes patients: 8 of A \(z .*\), 4 of B \(z "),
        ({"StudyInstanceUID": "1.2.3.45678901234567"}, r"mixes studies: 8 of …\d{12} \(z .*\), 4 of …678901234567 \(z"),
        ({"FrameOfReferenceUID": "1.2.3"}, r"mixes frames of reference: 8 of …\d{12} \(z .*\), 4 of …1\.2\.3 \(z"),
        ({"ConvolutionKernel": "BONE"}, r"mixes kernels: 8 of STANDARD \(z .*\), 4 of BONE \(z "),
        ({"ConvolutionKernel": ["I70f", "2"]}, "4 of I70f/2"),
        ({"PixelSpacing": [0.8, 0.9]}, r"mixes pixel spacings: 8 of 0\.8 × 0\.7 mm .*, 4 of 0\.8 × 0\.9 mm"),
        ({"ImageOrientationPatient": [-1, 0, 0, 0, 1, 0]}, r"8 of axial \(1, 0, .*, 4 of axial \(-1, 0, 0, 0, 1, 0\)"),
    ],
)
def test_what_differs_is_listed(tmp_path: Path, changes: dict[str, Any], listed: str) -> None:
    save(tmp_path, changed(8, **changes))
    with pytest.raises(MixedSeries, match=listed) as caught:
        read(tmp_path)
    assert isinstance(caught.value, BadGeometry) and "export one" in str(caught.value)
    (info,) = list_series(tmp_path)
    assert not info.readable and info.problems[0] == str(caught.value)
    for identity in ("T1", "Zyx", "Test", "Body", "1950"):
        assert identity not in str(caught.value)


@pytest.mark.parametrize("changes", [{"PatientName": "Other^One"}, {"PatientBirthDate": "19611231"}])
def test_name_and_birth_tell_patients_apart_where_there_is_no_id(tmp_path: Path, changes: dict[str, str]) -> None:
    series = changed(6, **changes)
    assert read(save(tmp_path / "with", series)).source.warnings == ()
    for data in series:
        data.PatientID = ""
    with pytest.raises(MixedSeries, match=r"mixes patients: 6 of A \(z .*\), 6 of B \(z ") as caught:
        read(save(tmp_path / "without", series))
    assert "Other" not in str(caught.value) and "1961" not in str(caught.value)


def test_a_name_may_be_spelt_in_several_ways(tmp_path: Path) -> None:
    series = changed(6, PatientName="TEST^BODY^^")
    for data in series:
        data.PatientID = ""
    assert read(save(tmp_path, series)).source.warnings == ()


@pytest.mark.parametrize(
    ("keyword", "words"),
    [
        ("ConvolutionKernel", "have no kernel; the others agree on it."),
        ("StudyInstanceUID", "have no study UID; the others agree on it."),
        ("PatientID", "have no patient ID; the others agree on it."),
    ],
)
def test_what_some_do_not_say_is_a_warning(tmp_path: Path, keyword: str, words: str) -> None:
    series = slices()
    for data in series[2:5]:
        delattr(data, keyword)
    assert read(save(tmp_path, series)).source.warnings == (f"3 of 12 images, first «0002.dcm», {words}",)
    assert list_series(tmp_path)[0].problems == (f"3 of 12 images, first «0002.dcm», {words}",)


def test_kernels_that_interleave(tmp_path: Path) -> None:
    with pytest.raises(MixedSeries, match=r"mixes kernels: 12 of STANDARD .*, 12 of LUNG "):
        read(save(tmp_path, interleaved(ConvolutionKernel="LUNG")))


def test_acquisitions_that_interleave(tmp_path: Path) -> None:
    series = interleaved(AcquisitionNumber=2)
    for data in series[:12]:
        data.AcquisitionNumber = 1
    listed = r"whose slices interleave: 12 of number 1 \(z −400\.00 to −372\.50 mm\), 12 of number 2 \(z −398\.75 to"
    with pytest.raises(MixedSeries, match=listed):
        read(save(tmp_path, series))


def test_acquisitions_one_above_another_are_a_warning(tmp_path: Path) -> None:
    series = slices()
    for z, data in enumerate(series):
        data.AcquisitionNumber = 1 + z // 4
    (warning,) = read(save(tmp_path, series)).source.warnings
    assert warning.startswith("The series holds several acquisitions, one above another: 4 of number 1 (z −400.00 to")


def test_a_scan_in_steps_with_a_number_each(tmp_path: Path) -> None:
    series = slices()
    for z, data in enumerate(series):
        data.AcquisitionNumber = 12 - z
    (warning,) = read(save(tmp_path, series)).source.warnings
    assert warning.endswith("1 of number 9 (z −392.50 mm) and 8 more.")


def test_frames_that_do_not_belong_together(tmp_path: Path) -> None:
    data = multiframe()
    for number, group in enumerate(data.PerFrameFunctionalGroupsSequence):
        kernel, content = type(group)(), type(group)()
        kernel.ConvolutionKernel = "BONE" if number < 4 else "SOFT"
        group.CTReconstructionSequence = [kernel]
        group.FrameContentSequence = [content]
    with pytest.raises(MixedSeries, match=r"mixes kernels: 8 of SOFT .*, 4 of BONE"):
        read(save(tmp_path, [data]))


def test_a_localizer_first_does_not_speak_for_the_scan(tmp_path: Path) -> None:
    series = slices()
    keep = same_scan(series) | {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"], "ConvolutionKernel": "SCOUT"}
    scout = slices(body()[:1], cosines=(1, 0, 0, 0, 0, -1), SliceThickness=300, **keep)
    source = read(save(tmp_path, scout + series)).source
    assert (source.kernel, source.slice_thickness_mm) == ("STANDARD", 2.5)


# --- what is left out ----------------------------------------------------------------------------


def test_an_end_slice_without_a_size(tmp_path: Path) -> None:
    series = slices()
    del series[0].Rows
    with pytest.raises(UnreadableFile, match=r"0000\.dcm is an image whose header lacks Rows or Columns"):
        read(save(tmp_path, series))


def test_a_damaged_stray_file_does_not_hinder(tmp_path: Path) -> None:
    save(tmp_path, slices())
    (tmp_path / "notes.gz").write_bytes(b"\x1f\x8b\x08\x00 and no more")
    assert read(tmp_path).source.warnings == ("1 files that are not DICOM were left out, first «notes.gz».",)
    (info,) = list_series(tmp_path)
    assert info.readable and info.problems == ()


def test_pipes_sockets_and_links_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "scan", slices())
    save(tmp_path / "elsewhere", slices())
    os.mkfifo(tmp_path / "scan" / "a.dcm")
    (tmp_path / "scan" / "null").symlink_to("/dev/null")
    (tmp_path / "scan" / "gone.dcm").symlink_to(tmp_path / "nothing")
    (tmp_path / "scan" / "more").symlink_to(tmp_path / "elsewhere")
    with socket.socket(socket.AF_UNIX) as server:
        monkeypatch.chdir(tmp_path / "scan")  # the name of a socket may be 100 characters long
        server.bind("s.dcm")
    expected = (
        "1 files were left out (a pipe), first «a.dcm».",
        "1 files were left out (no such file or directory), first «gone.dcm».",
        "1 files were left out (a device), first «null».",
        "1 files were left out (a socket), first «s.dcm».",
        "1 folders that are links were left out, first «more».",
    )
    assert read(tmp_path / "scan").source.warnings == expected
    assert list_series(tmp_path / "scan")[0].problems == expected


def test_nothing_but_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.dcm")
    with pytest.raises(UnreadableFile, match=r"a\.dcm is a pipe, not a file that can be read"):
        read(tmp_path / "a.dcm")
    with pytest.raises(NoSeries, match=r"holds no files, none of them a scan; .*1 files were left out \(a pipe\)"):
        read(tmp_path)
    with pytest.raises(UnreadableFile, match="a device"):
        list_series("/dev/zero")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is closed to root")
def test_what_cannot_be_opened(tmp_path: Path) -> None:
    save(tmp_path, slices())
    (tmp_path / "closed").mkdir(mode=0)
    (tmp_path / "a.dcm").touch(mode=0)
    assert read(tmp_path).source.warnings == (
        "1 files were left out (permission denied), first «a.dcm».",
        "1 folders cannot be opened and were left out, first «closed».",
    )


# --- harmless ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "attribute", "expected"),
    [
        ({"ContrastBolusAgent": ""}, "contrast", None),
        ({"ContrastBolusAgent": "NONE"}, "contrast", False),
        ({"ContrastBolusAgent": "Omnipaque"}, "contrast", True),
        ({"ContrastBolusAgentSequence": []}, "contrast", None),
        ({"ConvolutionKernel": ""}, "kernel", None),
        ({"RescaleType": "Houndsfield Unit"}, "kernel", "STANDARD"),
        ({"RescaleType": "hounsfield"}, "kernel", "STANDARD"),
        ({"SliceThickness": None}, "slice_thickness_mm", None),
        ({"SliceThickness": 0}, "slice_thickness_mm", None),
        ({"SliceThickness": "NaN"}, "slice_thickness_mm", None),
        ({"SliceThickness": "1e30"}, "slice_thickness_mm", None),
    ],
)
def test_unknown_stays_unknown(tmp_path: Path, changes: dict[str, Any], attribute: str, expected: object) -> None:
    source = read(save(tmp_path, slices(**changes))).source
    assert getattr(source, attribute) == expected and source.warnings == ()


def test_an_instance_number_that_is_none(tmp_path: Path) -> None:
    series = slices()
    save(tmp_path, series)
    for file in tmp_path.iterdir():
        # InstanceNumber, IS, two characters.
        data = file.read_bytes()
        at = data.index(b"\x20\x00\x13\x00IS")
        file.write_bytes(data[: at + 8] + b"xy" + data[at + 10 :])
    volume = read(tmp_path)
    assert {ref.instance_number for ref in volume.source.slices} == {None}
    np.testing.assert_array_equal(volume.hu, body())


def test_two_images_in_one_place(tmp_path: Path) -> None:
    series = slices()
    again = slices(**same_scan(series))
    pixels(again[3], np.roll(body()[3], 3, axis=0).astype(np.int32) - INTERCEPT)
    with pytest.raises(BadGeometry, match=r"2 different images lie in one place \(0003\.dcm, 0012\.dcm\)"):
        read(save(tmp_path, [*series, again[3]]))
