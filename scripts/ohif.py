"""The picture of the OHIF viewer in the documents: a scan and its objects, as it shows them from an archive.

nodulens phantom -o ct
nodulens analyze ct -o out --context screening --prior none
make ohif orthanc
python scripts/ohif.py ct out docs/ohif.png
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

TESTS = Path(__file__).resolve().parents[1] / "tests"


def main(
    scan: Annotated[Path, typer.Argument(help="Folder of DICOM slices.")],
    output: Annotated[Path, typer.Argument(help="Output of its analysis.")],
    picture: Annotated[Path, typer.Argument(help="PNG to write.")],
    nodule: Annotated[int, typer.Option(help="Number of the nodule to show.")] = 1,
    width: int = 1280,
    height: int = 800,
) -> None:
    """Store all into an archive of the moment, open the study in the viewer, and keep what it shows of a nodule.

    The lungs' segments are hidden, which would lie over the nodule's.
    """
    sys.path.insert(0, str(TESTS))  # where the archive, the viewer and the browser are started for the tests
    import pydicom

    import nodulens as nl
    from browser import Browser
    from nodulens.dicom_net.outgoing import sorted_out
    from nodulens.dicom_net.stow import stow
    from ohif import Viewer, hide, load_segmentation, open_panel, open_study, show_slice
    from orthanc import Orthanc

    files, _ = sorted_out(sorted([*scan.iterdir(), *(output / "dicom").iterdir()]))
    report = nl.from_json((output / "report.json").read_text("utf-8"))
    (shown,) = (one for one in report.nodules if one.id == nodule)
    study = str(pydicom.dcmread(output / "dicom" / "seg.dcm", stop_before_pixels=True).StudyInstanceUID)
    with Orthanc() as archive, Viewer(archive) as viewer, Browser(webgl=True) as browser:
        refused = [one for one in stow(files, archive.web) if not one.stored]
        assert not refused, refused
        browser.size(width, height)
        print(*open_study(browser, viewer, study))
        print(*load_segmentation(browser), sep=", ")
        open_panel(browser)
        hide(browser, ("Left lung", "Right lung"))
        show_slice(browser, str(shown.position.sop_instance_uid), [shown.centre_lps])
        browser.picture(picture)
    print(f"{picture}: {picture.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    typer.run(main)
