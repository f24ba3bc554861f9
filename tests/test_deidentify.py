"""What may be written of a header, and in how many spellings a patient is found."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodulens.core.text import file_name
from nodulens.core.volume import Patient, SliceRef, Source
from nodulens.io.deidentify import (
    Identity,
    is_kernel,
    is_manufacturer,
    is_protocol,
    released,
    shown_modality,
    shown_quantity,
)

PATIENT = Patient("Müller-Łoś^Anna-Maria^^Dr.", "MRN-20817", "19500312")
UID = "1.2.840.113619.2.55.3"


@pytest.mark.parametrize(
    "text",
    [
        "mueller", "MULLER", "Muller", "MÜLLER", "Mu\u0308ller", "los", "Łoś", "Maria, Anna", "anna_maria",
        "ANNA.MARIA", "AnnaMaria", "MuellerAnna.dcm", "xMuellerx", "anna^", "Ｍｕｌｌｅｒ", "MRN20817", "mrn_20817",
        "20817", "id20817x", "1950-03-12", "12.03.1950", "12.3.50", "03/12/1950", "3/12/50", "19500312", "500312",
        "12MAR1950", "12 März 1950", "March 12, 1950", "12 mars 1950", "geb. 12.03.1950", "1950_03_12",
        "１２．０３．１９５０",
    ],
)  # fmt: skip
def test_every_spelling_is_found(text: str) -> None:
    assert Identity.of(PATIENT).occurs_in(text)
    assert released(Source(patient=PATIENT, description=f"chest {text}")).description == ""


@pytest.mark.parametrize("text", ["", "CHEST 2.5 MM", "Thorax 1.0 B60f", "12 slices, 1.25 mm apart", "close", "1950"])
def test_what_says_nothing_of_the_patient_is_not_found(text: str) -> None:
    assert not Identity.of(PATIENT).occurs_in(text)


@pytest.mark.parametrize(
    ("name", "text", "found"),
    [
        ("Li^Xu", "LI", True),
        ("Li^Xu", "xu_chest", True),
        ("Li^Xu", "LiXu.dcm", True),
        ("Li^Xu", "the slices lie apart", False),
        ("Doe^J", "doe", True),
        ("Doe^J", "do", False),
        ("Sørensen^Åse", "soerensen", True),
        ("Sørensen^Åse", "SORENSEN", True),
        ("Sørensen^Åse", "aase", True),
        ("Löw^Max", "Loew", True),
        ("Strauß^Eva", "STRAUSS", True),
        ("山田^太郎", "山田", True),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "tarou", True),
        ("", "anything", False),
    ],
)
def test_short_and_foreign_names(name: str, text: str, found: bool) -> None:
    assert Identity.of(Patient(name, "", "")).occurs_in(text) is found


@pytest.mark.parametrize(
    "text",
    [
        "CHEST 2.5 MM",
        "5mm",
        "Thorax  1.0  B60f",
        "AX LUNG 1.25mm",
        "C+ Thorax 5.0 I30f 3",
        "HRCT 120 kV",
        "Lunge nativ",
    ],
)
def test_words_of_protocols_are_written(text: str) -> None:
    assert is_protocol(text)
    assert released(Source(description=text)).description == text


@pytest.mark.parametrize(
    "text",
    [
        "chest of Quirinzyx", "Dr Smith", "St. Mary's Hospital", "Acc 55021", "chest 55021", "19470813", "13.08.47",
        "13 08 47 12", "Li", "J. Doe", "Thorax_Li", "chest <b>", "=1+1 Quux", "胸部",
    ],
)  # fmt: skip
def test_other_words_are_left_out_whoever_bears_them(text: str) -> None:
    """Nobody's name stands in the header to compare with: referrers, hospitals, numbers of accessions."""
    known = released(Source(description=text, manufacturer=text, kernel=text))
    assert (known.description, known.manufacturer, known.kernel) == ("", "", None)
    assert known.warnings == (
        "Left out, for what stands there may say who was scanned: series description, manufacturer, kernel.",
    )


def test_kernels_and_makers_of_the_field_are_known() -> None:
    for kernel in ("STANDARD", "B", "B30f", "Br40d/3", "I70f\\3", "FC51", "LUNG", "BONEPLUS", "YA", "B_SHARP_C"):
        assert is_kernel(kernel), kernel
    for maker in (
        "GE MEDICAL SYSTEMS",
        "SIEMENS",
        "Siemens Healthineers",
        "Philips",
        "Canon Medical Systems",
        "TOSHIBA",
    ):
        assert is_manufacturer(maker), maker
    assert not is_kernel("DOE") and not is_manufacturer("Dr Philips")


def test_what_is_known_is_written_as_it_stands() -> None:
    source = Source("dicom", UID, description="CHEST 2.5 MM", manufacturer="SIEMENS", kernel="B30f", patient=PATIENT)
    known = released(source)
    assert known.patient is None and known.warnings == ()
    assert (known.description, known.manufacturer, known.kernel) == ("CHEST 2.5 MM", "SIEMENS", "B30f")
    assert known.series_uid == UID


@pytest.mark.parametrize("uid", ["Muller.Anna", "1.2.19500312.7", "1.2.3.", "1.02.3", "1." * 40 + "1", "1.2.3\n4"])
def test_a_uid_that_is_none_or_holds_the_birth_date_is_left_out(uid: str) -> None:
    remark = f"Series {uid}: one slice is odd."
    known = released(
        Source("dicom", uid, slices=(SliceRef(uid, 3), SliceRef(UID, 4)), patient=PATIENT, warnings=(remark,))
    )
    assert known.series_uid is None
    assert known.slices == (SliceRef("", 3), SliceRef(UID, 4))
    assert known.warnings[0] == "Series …: one slice is odd."
    assert "series UID, SOP instance UIDs" in known.warnings[1]


def test_remarks_that_repeat_the_patient_are_left_out() -> None:
    remarks = ("One file, Mueller_A.dcm, is damaged.", "The gantry was tilted.\x1b[31m")
    known = released(Source(warnings=remarks, patient=PATIENT))
    assert known.warnings[0] == "The gantry was tilted.\\x1b[31m"
    assert len(known.warnings) == 2 and known.warnings[1].startswith("1 remark")


def test_a_patient_called_like_a_word_of_ours_hides_no_warning() -> None:
    known = released(Source(warnings=("The lung is cut off.",), patient=Patient("Lung_Dx-A0001", "Lung_Dx-A0001", "")))
    assert known.warnings == ("The lung is cut off.",)


def test_names_of_files_are_told_but_not_written() -> None:
    left = f"2 files are damaged, first {file_name(Path('a/DOE^JANE «x».dcm'))}."
    assert left == "2 files are damaged, first «DOE^JANE ‹x›.dcm»."
    remarks = (left, f"{file_name(Path('Doe.nii'))}: one slice is odd.", f"Three, {file_name(Path('a'))}, are.")
    assert released(Source(warnings=remarks)).warnings == ("2 files are damaged.", "One slice is odd.", "Three, are.")


def test_words_of_dicom_alone_are_shown_in_messages() -> None:
    assert shown_modality("MR") == "MR" and shown_modality("DOE") == shown_modality("") == "unknown"
    assert shown_quantity("Z_EFF") == "Z_EFF" and shown_quantity("DOE") == "another quantity"
