"""Mutated inputs of every format, seeded, read in a process with limits: each is refused, or gives what it promises.

    python tests/fuzz.py --seed 1 --count 5000 --keep FOLDER

prints how often what became of each kind of input, and keeps those that ended in a fault, a death or a hang.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import random
import re
import shutil
import struct
import sys
import tempfile
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

import dicom_files
import made_objects
import made_reports
from reader_worker import Outcome, Worker

Files = dict[str, bytes]
SHAPE = (8, 32, 40)
BAD = ("fault", "dead", "hung")
NASTY = (
    "nan", "-nan", "inf", "-inf", "1e308", "-1e308", "1e-308", "0", "-0", "-1", "1", "2", "65535", "65536",
    "2147483647", "2147483648", "-2147483648", "4294967296", "9223372036854775807", "1e9", "1e30", "0.0000001",
    "99999999999999999999", "1e", "", " ", "x", "٣", "1_000", "0x10", "1,5", "1 2", "1\\2", "\x00",
    "\x1b[31m", "../../etc/passwd", "\u202e",
)  # fmt: skip
PACKED = tuple(
    struct.pack(kind, value)
    for kind, values in (
        ("<h", (-1, 0, 1, 32767, -32768)),
        ("<i", (-1, 0, 2**31 - 1, -(2**31))),
        ("<q", (-1, 2**63 - 1)),
        ("<f", (float("nan"), float("inf"), 0.0, -1.0, 1e30, 1e-30)),
        ("<d", (float("nan"), float("-inf"), 1e308)),
    )
    for value in values
)


@dataclass(frozen=True)
class Sample:
    """An input that is well, and the job that takes it.

    Attributes:
        kind: of format.
        files: name below the folder → bytes, before packing.
        job: words for :meth:`reader_worker.Worker.run`; ``{}`` is the folder.
        pack: of the files as they lie on the disk.
    """

    kind: str
    files: Files
    job: tuple[str, ...]
    pack: Callable[[Files], Files] = dict


# ---------------------------------------------------------------- inputs that are well


def samples() -> tuple[Sample, ...]:
    """One of every format."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return (*_dicom(), *_images(), *_masks(), *_pictures(), *_tables())


def _dicom() -> Iterator[Sample]:
    hu = dicom_files.body(SHAPE)

    def stored(change: Callable[[Dataset], None]) -> Files:
        made = {}
        for i, data in enumerate(dicom_files.slices(hu)):
            change(data)
            buffer = io.BytesIO()
            data.save_as(buffer, enforce_file_format=True)
            made[f"{i:02d}.dcm"] = buffer.getvalue()
        return made

    def syntax(uid: str) -> Callable[[Dataset], None]:
        return lambda data: setattr(data.file_meta, "TransferSyntaxUID", uid)

    def packed(uid: str, plugin: str) -> Callable[[Dataset], None]:
        return lambda data: data.compress(uid, encoding_plugin=plugin)

    explicit = stored(lambda data: None)
    yield Sample("dicom", explicit, ("scan", "{}"))
    yield Sample("dicom info", explicit, ("command", "info", "{}", "--json"))
    yield Sample("dicom implicit", stored(syntax(ImplicitVRLittleEndian)), ("scan", "{}"))
    yield Sample(
        "dicom gaps", dict(list(explicit.items())[:3] + list(explicit.items())[4:]), ("scan", "{}", "interpolate")
    )
    yield Sample("dicom deflated", explicit, ("scan", "{}"), _deflated)
    yield Sample("dicom jpeg-ls", stored(packed(JPEGLSLossless, "pyjpegls")), ("scan", "{}"))
    yield Sample("dicom jpeg 2000", stored(packed(JPEG2000Lossless, "pylibjpeg")), ("scan", "{}"))
    yield Sample("dicom rle", stored(packed(RLELossless, "pylibjpeg")), ("scan", "{}"))
    yield Sample("dicom jpeg lossless", {name: _jpeg_lossless(data) for name, data in explicit.items()}, ("scan", "{}"))
    buffer = io.BytesIO()
    dicom_files.multiframe(hu).save_as(buffer, enforce_file_format=True)
    yield Sample("dicom multi-frame", {"all.dcm": buffer.getvalue()}, ("scan", "{}/all.dcm"))
    yield Sample("zip of dicom", explicit, ("scan", "{}/scan.zip"), _zipped)


def _deflated(files: Files) -> Files:
    """The data sets deflated behind a header that says so."""
    made = {}
    for name, data in files.items():
        # The length of the transfer syntax differs: the group's length stands at 140.
        meta = 144 + struct.unpack_from("<I", data, 140)[0] if len(data) > 144 else len(data)
        old, new = (f"{uid}\0"[: len(uid) + len(uid) % 2].encode() for uid in _SYNTAXES)
        head = data[:meta].replace(struct.pack("<H", len(old)) + old, struct.pack("<H", len(new)) + new)
        if len(head) > 144:
            head = head[:140] + struct.pack("<I", len(head) - 144) + head[144:]
        squeeze = zlib.compressobj(wbits=-15)
        made[name] = head + squeeze.compress(data[meta:]) + squeeze.flush()
    return made


_SYNTAXES = (ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian)


def _jpeg_lossless(data: bytes) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "one.dcm"
        path.write_bytes(data)
        dicom_files.to_jpeg_lossless(path, path)
        made = path.read_bytes()
    assert JPEGLosslessSV1.encode() in made
    return made


def _zipped(files: Files) -> Files:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return {"scan.zip": buffer.getvalue()}


def _written(array: np.ndarray, name: str, packed: bool = False) -> Files:  # type: ignore[type-arg]
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.7, 0.8, 2.5))
    image.SetOrigin((-20.0, -30.0, -400.0))
    with tempfile.TemporaryDirectory() as folder:
        sitk.WriteImage(image, str(Path(folder) / name), packed)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def _gzipped(files: Files) -> Files:
    return {f"{name}.gz": gzip.compress(data, 1, mtime=0) for name, data in files.items()}


def _images() -> Iterator[Sample]:
    hu = dicom_files.body(SHAPE)
    for name, packed in (
        ("a.mha", False), ("a.mha", True), ("a.mhd", False), ("a.mhd", True), ("a.nii", False), ("a.nrrd", False),
        ("a.nrrd", True), ("a.nhdr", False), ("a.nhdr", True),
    ):  # fmt: skip
        kinds = {"a.mha": "metaimage", "a.mhd": "metaimage + raw", "a.nii": "nifti", "a.nrrd": "nrrd"}
        yield Sample(
            kinds.get(name, "nrrd + raw") + " packed" * packed, _written(hu, name, packed), ("scan", f"{{}}/{name}")
        )
    yield Sample("nifti.gz", _written(hu, "a.nii"), ("scan", "{}/a.nii.gz"), _gzipped)
    yield Sample("nifti hdr + img", _written(hu, "a.hdr"), ("scan", "{}/a.hdr"))
    yield Sample("image info", _written(hu, "a.mha"), ("command", "info", "{}"))


def _masks() -> Iterator[Sample]:
    labels = (dicom_files.body(SHAPE) > 0).astype(np.uint8)
    yield Sample("mask nifti.gz", _written(labels, "m.nii"), ("mask", "{}/m.nii.gz"), _gzipped)
    yield Sample("mask nrrd packed", _written(labels, "m.nrrd", True), ("mask", "{}/m.nrrd"))
    yield Sample("mask metaimage", _written(labels, "m.mha"), ("mask", "{}/m.mha"))
    yield from _objects()


def _objects() -> Iterator[Sample]:
    """The objects of a made-up report: a SEG, an RTSTRUCT, and an SR with its SEG beside it."""
    from nodulens.dicom_objects.write import write_dicom
    from nodulens.io import read

    with tempfile.TemporaryDirectory() as folder:
        ct = read(made_objects.plain(Path(folder)))
        kinds = ("seg", "sr", "rtstruct")
        made = write_dicom(made_objects.reported(ct), ct, Path(folder) / "dicom", kinds=kinds)
        files = {kind: (made / f"{kind}.dcm").read_bytes() for kind in kinds}
    for kind in ("seg", "rtstruct"):
        yield Sample(f"dicom {kind}", {f"{kind}.dcm": files[kind]}, ("rois", f"{{}}/{kind}.dcm"))
    yield Sample("dicom sr", {f"{kind}.dcm": files[kind] for kind in ("sr", "seg")}, ("rois", "{}/sr.dcm"))


def _tables() -> Iterator[Sample]:
    from nodulens.report.json import to_json

    report = to_json(made_reports.report(made_reports.scan((44, 40, 100)), 2)).encode()
    yield Sample("report", {"report.json": report}, ("command", "ask", "{}", "largest nodule in the left lung"))
    yield Sample("report as json", {"report.json": report}, ("command", "ask", "{}", "largest nodule", "--json"))
    uid = "1.3.6.1.4.1.14519.5"
    nodules, marks = (f"seriesuid,coordX,coordY,coordZ,{name}" for name in ("diameter_mm", "probability"))
    tables = {
        "annotations.csv": f"{nodules}\n{uid}.1,-12.5,3.25,100,8.5\n{uid}.2,40,7,-20,5\n",
        "series.csv": f"{uid}.1\n{uid}.2\n",
        "predictions.csv": f"{marks}\n{uid}.1,-12,3,101,0.9\n{uid}.2,0,0,0,0.25\n",
    }
    words = [word for name in ("annotations", "series", "predictions") for word in (f"--{name}", f"{{}}/{name}.csv")]
    encoded = {name: text.encode() for name, text in tables.items()}
    yield Sample("froc tables", encoded, ("command", "evaluate", "froc", *words, "--json"))
    boxes = "image,x_min,y_min,x_max,y_max,label"
    tables = {
        "truth.csv": f"{boxes}\n1.png,10,12,20.5,30,nodule\n2.png,1,2,3,4,nodule\n",
        "found.csv": f"{boxes},score\n1.png,11,12,21,30,nodule,0.9\n2.png,5,5,9,9,nodule,0.2\n",
    }
    words = ["--truth", "{}/truth.csv", "--predictions", "{}/found.csv"]
    encoded = {name: text.encode() for name, text in tables.items()}
    yield Sample("tables of boxes", encoded, ("command", "evaluate", "boxes", *words))
    yield Sample(
        "evaluation", {"e.json": _evaluation()}, ("command", "evaluate", "page", "{}/e.json", "-o", "{}/e.html")
    )
    split = {
        "schema": "nodulens-split/1", "method": "by hand", "seed": 1, "folds": 2, "data_sets": ["made"], "notes": [],
        "sizes": {"0": 1, "1": 1}, "patients": {"P1": "0", "P2": "1"},
    }  # fmt: skip
    yield Sample("split", {"split.json": json.dumps(split, indent=1).encode()}, ("split", "{}/split.json"))
    yield Sample("run", {"run.json": _run()}, ("method", "{}"))


def _evaluation() -> bytes:
    from nodulens.presentation.evaluation import Evaluation, Metric, Table, to_json

    made = Evaluation(
        title="Patches",
        summary=("Ninety were judged.",),
        metrics=(Metric("AUC", 0.9123, 0.874, 0.951, 1090, note="of 6 to 12 mm"), Metric("Kappa", float("nan"))),
        tables=(Table("By texture", ("", "n", "AUC"), (("solid", 1700, 0.93), ("ground glass", 7, None))),),
    )
    return to_json(made).encode()


def _pictures() -> Iterator[Sample]:
    from PIL import Image

    grey = np.clip((dicom_files.body(SHAPE)[4] + 1000) / 6, 0, 255).astype(np.uint8)
    for name, picture in (
        ("a.png", Image.fromarray(grey)),
        ("deep.png", Image.fromarray(grey.astype(np.uint16) * 257)),
        ("palette.png", Image.fromarray(grey).quantize(16)),
        ("a.jpg", Image.fromarray(grey)),
    ):
        buffer = io.BytesIO()
        picture.save(buffer, "JPEG" if name.endswith("jpg") else "PNG")
        yield Sample(f"picture {name}", {name: buffer.getvalue()}, ("picture", f"{{}}/{name}"))
    corners = "<xmin>3</xmin><ymin>4</ymin><xmax>10</xmax><ymax>12.5</ymax>"
    voc = f"<annotation>\n<object>\n<name>n</name>\n<bndbox>{corners}</bndbox>\n</object>\n</annotation>\n"
    yield Sample("pascal voc", {"a.xml": voc.encode()}, ("voc", "{}/a.xml"))


def _run() -> bytes:
    from nodulens.methods.catalogue import RECIPES
    from nodulens.methods.run_record import Run, write_run

    made = Run(RECIPES["se-aux-unet"], "nodulens train", 1)
    with tempfile.TemporaryDirectory() as folder:
        write_run(replace(made, seconds=dict.fromkeys(made.untrained, 1.5)), Path(folder))
        return (Path(folder) / "run.json").read_bytes()


# ---------------------------------------------------------------- mutations

Mutation = Callable[[random.Random, Files], Files]


def _one(rng: random.Random, files: Files, change: Callable[[random.Random, bytes], bytes]) -> Files:
    """A change of one file; of several that look alike at times of all, in the same way."""
    names = sorted(files)
    if len(names) > 3 and rng.random() < 0.3:
        seed = rng.random()
        return {name: change(random.Random(seed), files[name]) for name in names}
    name = rng.choice(names)
    return {**files, name: change(rng, files[name])}


def _place(rng: random.Random, data: bytes) -> int:
    """An offset, more often among the first than among the last."""
    return rng.randrange(min(len(data), rng.choice((64, 400, 1000, len(data) or 1))) or 1)


def flip(rng: random.Random, files: Files) -> Files:
    """Some bits of a file."""

    def change(rng: random.Random, data: bytes) -> bytes:
        made = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 8, 64))):
            if made:
                made[_place(rng, data)] ^= 1 << rng.randrange(8)
        return bytes(made)

    return _one(rng, files, change)


def cut(rng: random.Random, files: Files) -> Files:
    """The end of a file is lacking, or a piece of its middle."""

    def change(rng: random.Random, data: bytes) -> bytes:
        at = _place(rng, data)
        return data[:at] if rng.random() < 0.6 else data[:at] + data[at + rng.choice((1, 2, 3, 16, 512)) :]

    return _one(rng, files, change)


def grow(rng: random.Random, files: Files) -> Files:
    """Bytes too many."""

    def change(rng: random.Random, data: bytes) -> bytes:
        at = rng.choice((len(data), _place(rng, data)))
        more = rng.choice((b"\0" * 600, data[: rng.randrange(600)], rng.randbytes(rng.randrange(1, 600)), b"\n", b"\r"))
        return data[:at] + more + data[at:]

    return _one(rng, files, change)


def number(rng: random.Random, files: Files) -> Files:
    """A number of a text, or of a header, is another."""

    def change(rng: random.Random, data: bytes) -> bytes:
        found = list(re.finditer(rb"[-+]?\d+(\.\d+)?([eE][-+]?\d+)?", data[:6000]))
        if not found:
            return data
        match = rng.choice(found)
        return data[: match.start()] + rng.choice(NASTY).encode() + data[match.end() :]

    return _one(rng, files, change)


def field(rng: random.Random, files: Files) -> Files:
    """A binary number of a header is another."""

    def change(rng: random.Random, data: bytes) -> bytes:
        value = rng.choice(PACKED)
        at = _place(rng, data) // 2 * 2
        return data[:at] + value + data[at + len(value) :]

    return _one(rng, files, change)


def line(rng: random.Random, files: Files) -> Files:
    """A line is lacking, there twice, or exchanged with another."""

    def change(rng: random.Random, data: bytes) -> bytes:
        lines = data.split(b"\n")
        a, b = rng.randrange(min(len(lines), 60)), rng.randrange(min(len(lines), 60))
        match rng.randrange(4):
            case 0:
                del lines[a]
            case 1:
                lines.insert(b, lines[a])
            case 2:
                lines[a], lines[b] = lines[b], lines[a]
            case _:
                lines[a] = lines[a].replace(b" ", rng.choice((b"", b"\t", b"\x0b", b"\r", b"  ", b"\xc2\x85")), 1)
        return b"\n".join(lines)

    return _one(rng, files, change)


def folder(rng: random.Random, files: Files) -> Files:
    """Files are lacking, there twice, empty, or exchanged."""
    names, made = sorted(files), dict(files)
    a, b = rng.choice(names), rng.choice(names)
    match rng.randrange(6):
        case 0 if len(names) > 1:
            del made[a]
        case 1:
            made[f"copy-{a}"] = made[a]
        case 2:
            made[a] = b""
        case 3:
            made[a], made[b] = made[b], made[a]
        case 4:
            made[a] = made[b][: len(made[b]) // 2] + made[a][len(made[a]) // 2 :]
        case _:
            made[f"stray.{rng.choice(('gz', 'txt', 'dcm', 'mhd', 'nii', 'zip'))}"] = rng.choice(
                (b"", b"\x1f\x8b\x08\0broken", b"PK\x03\x04", b"NRRD0004\n", rng.randbytes(500), made[a][:200])
            )
    return made


def element(rng: random.Random, files: Files) -> Files:
    """An element of a DICOM header is lacking, there twice, or says something else."""

    def change(rng: random.Random, data: bytes) -> bytes:
        found = list(_elements(data))
        if not found:
            return cut(rng, {"": data})[""]
        start, value, end = rng.choice(found)
        match rng.randrange(5):
            case 0:
                return data[:start] + data[end:]
            case 1:
                return data[:end] + data[start:end] + data[end:]
            case 2:
                return data[: start + 4] + rng.choice((b"DS", b"SQ", b"UN", b"OW", b"IS", b"ZZ")) + data[start + 6 :]
            case 3:
                return data[: start + 6] + struct.pack("<H", rng.choice((0, 1, 7, 500, 65535))) + data[value:]
            case _:
                said = rng.choice(NASTY).encode()
                many = data[value:end].count(b"\\")
                said = b"\\".join([said] * (many + 1)) if rng.random() < 0.5 else said
                if many and rng.random() < 0.5:
                    parts = data[value:end].split(b"\\")
                    parts[rng.randrange(len(parts))] = rng.choice(NASTY).encode()
                    said = b"\\".join(parts)
                said += b" " * (len(said) % 2)
                return data[: start + 6] + struct.pack("<H", len(said)) + said + data[end:]

    return _one(rng, files, change)


def _elements(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Start, start of the value and end of the short elements of an explicit little-endian file."""
    at = 132
    while at + 8 <= len(data):
        kind, length = data[at + 4 : at + 6], struct.unpack_from("<H", data, at + 6)[0]
        if not kind.isalpha() or kind in (b"OB", b"OW", b"SQ", b"UN", b"UT", b"OF", b"UC", b"UR"):
            if kind not in (b"OB", b"UN") or at + 12 > len(data):
                return
            at += 12 + struct.unpack_from("<I", data, at + 8)[0]
            continue
        yield at, at + 8, at + 8 + length
        at += 8 + length


GENERAL: tuple[Mutation, ...] = (flip, cut, grow, number, field, line, folder)


def mutated(sample: Sample, seed: int) -> tuple[str, Files]:
    """The names of the mutations of a seed, and the files that they leave, packed."""
    rng = random.Random(seed)
    dicom = "dicom" in sample.kind
    inside = sample.pack is dict or rng.random() < 0.6
    files = dict(sample.files) if inside else sample.pack(sample.files)
    chosen = [
        element if dicom and inside and rng.random() < 0.5 else rng.choice(GENERAL)
        for _ in range(rng.choice((1, 1, 1, 2, 3)))
    ]
    for mutation in chosen:
        files = mutation(rng, files)
    said = "+".join(mutation.__name__ for mutation in chosen)
    return (said, sample.pack(files)) if inside else (f"packed {said}", files)


# ---------------------------------------------------------------- running


@dataclass(frozen=True)
class Result:
    """A mutated input, and what became of it."""

    kind: str
    seed: int
    mutation: str
    files: Files
    outcome: Outcome


def run(seed: int, count: int, worker: Worker, only: str = "") -> Iterator[Result]:
    """Read ``count`` mutated inputs, the kinds whose name holds ``only`` by turns; the same for the same seed."""
    known = [sample for sample in samples() if only in sample.kind]
    with tempfile.TemporaryDirectory(prefix="fuzz-") as name:
        for i in range(count):
            sample, place = known[i % len(known)], Path(name) / "in"
            said, files = mutated(sample, seed * 1_000_003 + i)
            shutil.rmtree(place, ignore_errors=True)
            put(files, place)
            outcome = worker.run(*(word.replace("{}", str(place)) for word in sample.job))
            yield Result(sample.kind, seed * 1_000_003 + i, said, files, outcome)


def put(files: Files, folder: Path) -> None:
    """Write files into a new folder."""
    folder.mkdir(parents=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)


def table(results: list[Result]) -> str:
    """Kinds of input by what became of them."""
    columns = ("read", "refused", *BAD)
    counts = Counter((result.kind, result.outcome.kind) for result in results)
    kinds = list(dict.fromkeys(result.kind for result in results))
    lines = [f"{'':24}" + "".join(f"{column:>9}" for column in columns)]
    lines += [f"{kind:24}" + "".join(f"{counts[kind, column]:>9}" for column in columns) for kind in kinds]
    total = Counter(result.outcome.kind for result in results)
    return "\n".join([*lines, f"{'all':24}" + "".join(f"{total[column]:>9}" for column in columns)])


def failures(results: list[Result]) -> str:
    """What must not be, a paragraph each."""
    return "\n\n".join(
        f"{r.kind}, {r.mutation}, seed {r.seed}: {r.outcome.kind}\n{r.outcome.detail.get('trace') or r.outcome.detail}"
        for r in results
        if r.outcome.kind in BAD
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--only", default="", help="kinds whose name holds this")
    parser.add_argument("--keep", type=Path, help="folder for the inputs that must not be")
    asked = parser.parse_args()
    results = []
    with Worker() as worker:
        for result in run(asked.seed, asked.count, worker, asked.only):
            results.append(result if result.outcome.kind in BAD else replace(result, files={}))
            if result.outcome.kind in BAD and asked.keep:
                put(result.files, asked.keep / f"{result.kind} {result.seed}".replace(" ", "_"))
    print(table(results), failures(results), sep="\n\n")
    return int(any(result.outcome.kind in BAD for result in results))


if __name__ == "__main__":
    sys.exit(main())
