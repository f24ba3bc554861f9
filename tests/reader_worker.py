"""A process of its own that reads what may be broken: with limits on memory and time, and whatever becomes of it told.

The tests talk to it by :class:`Worker`; run as a program it answers one JSON line for each that it is sent.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nodulens.core.volume import Volume

MEMORY = 2 * 2**30
"""Bytes that reading may take beyond what the process holds before."""


@dataclass(frozen=True)
class Outcome:
    """What became of a job.

    Attributes:
        kind: "read", "refused" (an InputError, or exit code 2), "fault" (anything else that was raised, or another
            code), "dead" or "hung".
        detail: of a read its facts, of others the error's class and message.
        seconds: that it took.
    """

    kind: str
    detail: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


class Worker:
    """The process, started when it is first needed and again when it has died. Close it, or use it in a with block."""

    def __init__(self, limit_s: float = 20.0, memory: int = MEMORY) -> None:
        self.limit_s = limit_s
        self.memory = memory
        self._process: subprocess.Popen[bytes] | None = None
        self._answers = -1

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the process and those it has started."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            os.close(self._answers)
            self._process = None

    def run(self, job: str, *words: str | Path) -> Outcome:
        """Have a job done, see :data:`JOBS`."""
        process = self._started()
        start = time.monotonic()
        assert process.stdin is not None
        process.stdin.write(json.dumps([job, *map(os.fspath, words)]).encode() + b"\n")
        process.stdin.flush()
        answer = b""
        while not answer.endswith(b"\n"):
            left = start + self.limit_s - time.monotonic()
            if left <= 0 or not select.select([self._answers], [], [], left)[0]:
                self.close()
                return Outcome("hung", {"limit_s": self.limit_s}, self.limit_s)
            piece = os.read(self._answers, 1 << 16)
            if not piece:
                code = process.wait()
                self.close()
                return Outcome("dead", {"code": code}, time.monotonic() - start)
            answer += piece
        kind, detail = json.loads(answer)
        return Outcome(kind, detail, time.monotonic() - start)

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            self._answers, theirs = os.pipe()
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(theirs), str(self.memory)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs],
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "0"},
            )
            os.close(theirs)
        return self._process


# ---------------------------------------------------------------- in the process


def read_scan(path: str, gaps: str = "error") -> dict[str, Any]:
    """List and read a scan, and hold the result to what it promises."""
    import numpy as np

    import nodulens
    from nodulens.io.deidentify import released

    listed = nodulens.list_series(path)
    ct = nodulens.read(path, gaps=gaps)  # type: ignore[arg-type]
    geometry = ct.geometry
    numbers = [*geometry.spacing_zyx, *geometry.origin_lps, *geometry.direction.ravel().tolist()]
    assert all(math.isfinite(number) for number in numbers), numbers
    assert all(0.01 < spacing < 100 for spacing in geometry.spacing_zyx), geometry.spacing_zyx
    assert max(map(abs, geometry.origin_lps)) < 1e5, geometry.origin_lps
    low, high = float(ct.hu.min()), float(ct.hu.max())
    assert -1500 <= low < high <= 70_000, (low, high)
    thickness = ct.source.slice_thickness_mm
    assert thickness is None or 0 < thickness < 100, thickness
    assert all(text.isprintable() for text in released(ct.source).warnings), ct.source.warnings
    assert listed
    _look_for_lungs(ct)
    return {
        "shape": geometry.shape,
        "low": low,
        "high": high,
        "spacing": geometry.spacing_zyx,
        "thickness": thickness,
        "warnings": ct.source.warnings,
        "sum": int(np.asarray(ct.hu, dtype=np.int64).sum()),
    }


def _look_for_lungs(ct: Volume) -> None:
    """The way of an analysis up to its networks."""
    from nodulens.errors import NoLungs
    from nodulens.ops.orient import canonical
    from nodulens.pipeline import quality_warnings
    from nodulens.report.record import ScanSummary
    from nodulens.stages.lungs import lung_volumes_ml, segment_lungs

    try:
        volume, _ = canonical(ct)
        lungs = segment_lungs(volume)
    except NoLungs:
        return
    summary = ScanSummary.of(ct)
    assert summary.slices == ct.geometry.shape[0]
    assert all(text.isprintable() for text in quality_warnings(ct, lungs))
    assert all(0 <= volume < 20_000 for volume in lung_volumes_ml(lungs).values()), lung_volumes_ml(lungs)


def read_mask(path: str) -> dict[str, Any]:
    """Read a mask."""
    import nodulens.io

    mask = nodulens.io.read_mask(path)
    return {"shape": mask.geometry.shape, "labels": sorted(mask.names)}


def read_rois(path: str) -> dict[str, Any]:
    """Read regions, and draw them on a grid that does not end."""
    from nodulens.core.geometry import Geometry
    from nodulens.rois.grid import Grid
    from nodulens.rois.read import read_rois as read_them

    file = read_them(path)
    grid = file.grid or Grid(Geometry.axial((40, 64, 64), (2.5, 0.8, 0.7), (-20.0, -30.0, -400.0)))
    drawn = [roi.on(grid) for roi in file.rois if roi.shape.outlined]
    assert all(one is None or (one.mask.any() and one.mask.shape == one.box.shape) for one in drawn)
    return {"rois": [str(roi) for roi in file.rois], "voxels": [one.voxels if one else 0 for one in drawn]}


def command(*words: str) -> dict[str, Any]:
    """Run the command line; refused where it ends with 2 and a message."""
    from nodulens.apps import cli
    from nodulens.errors import InputError

    class Refused(InputError):
        pass

    sys.argv = ["nodulens", *words]
    out, err = io.TextIOWrapper(io.BytesIO(), "utf-8"), io.StringIO()
    code: object = 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as end:
            code = end.code or 0
        out.flush()
    printed, said = out.buffer.getvalue().decode("utf-8"), err.getvalue()  # type: ignore[attr-defined]
    assert "Traceback" not in said, said
    assert all(line.isprintable() for line in f"{printed}\n{said}".split("\n")), "control characters are shown"
    if code == 2:
        assert said.strip(), "exit code 2 without a message"
        raise Refused(said)
    assert code == 0, f"exit code {code}: {said}"
    if "--json" in words:
        json.loads(printed, parse_constant=_no_constant)
    return {"out": printed, "err": said}


def _no_constant(name: str) -> None:
    raise AssertionError(f"{name} in JSON")


def read_split(path: str) -> dict[str, Any]:
    """Read a split of patients."""
    from nodulens.data import splits

    return {"folds": splits.read_split(path).folds}


def read_method(path: str) -> dict[str, Any]:
    """Read what a run says of its recipe."""
    from nodulens.methods.run_record import method_named

    recipe, _ = method_named(path)
    return {"name": recipe.name}


def read_picture(path: str) -> dict[str, Any]:
    """Read a slice as PNG or JPEG, and as the mask of one."""
    from nodulens.data.folders import read_mask_picture
    from nodulens.data.folders import read_picture as read_grey

    grey, mask = read_grey(path), read_mask_picture(path)
    assert grey.shape == mask.shape and 0 <= grey.min() <= grey.max() <= 1
    return {"shape": grey.shape}


def read_voc(path: str) -> dict[str, Any]:
    """Read the boxes of Pascal VOC."""
    from nodulens.data.folders import boxes_of_voc

    boxes = boxes_of_voc(Path(path))
    return {"boxes": [(box.start, box.stop) for box in boxes]}


def fail(how: str) -> dict[str, Any]:
    """End badly, to see that it is noticed."""
    match how:
        case "fault":
            raise ZeroDivisionError(how)
        case "dead":
            os.abort()
        case "hung":
            while True:
                time.sleep(1)
        case _:
            return {"bytes": len(bytearray(64 * 2**30))}


JOBS = {
    "scan": read_scan,
    "mask": read_mask,
    "rois": read_rois,
    "command": command,
    "split": read_split,
    "method": read_method,
    "picture": read_picture,
    "voc": read_voc,
    "fail": fail,
}


def _answer(job: str, words: list[str]) -> tuple[str, dict[str, Any]]:
    from nodulens.errors import InputError

    try:
        return "read", JOBS[job](*words)
    except InputError as error:
        return "refused", {"class": type(error).__name__, "message": str(error)}
    except BaseException as error:  # whatever it is, it is told; even what is no Exception
        import traceback

        lines = traceback.format_exception(error)
        return "fault", {"class": type(error).__name__, "message": str(error)[:500], "trace": "".join(lines)[-3000:]}


def _main() -> None:
    import resource

    import nodulens
    import nodulens.apps.cli
    import nodulens.report.json

    answers = os.fdopen(int(sys.argv[1]), "w")
    _ = nodulens.read, nodulens.analyze
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + int(sys.argv[2]),) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        job, *words = json.loads(line)
        print(json.dumps(_answer(job, words), default=str), file=answers, flush=True)


if __name__ == "__main__":
    _main()
