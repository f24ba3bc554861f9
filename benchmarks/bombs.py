"""How much memory inputs take that unfold a thousandfold, before they are refused.

    python benchmarks/bombs.py

Each is packed zeros of 1 GiB (the picture 0.9 GB) behind a small scan, read in a process of its own. What that takes at
most (VmHWM of Linux: getrusage counts the parent's memory too) is printed beside what the scan without the bomb takes.
"""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import SimpleITK as sitk
from pydicom import dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian

from nodulens.data.phantom import write_phantom_dicom

ZEROS = bytes(2**20)
MIB = 1024
READ = """
import sys
from pathlib import Path
import nodulens as nl
from nodulens.data.folders import read_picture
from nodulens.errors import InputError
try:
    (read_picture if sys.argv[1].endswith(".png") else nl.read)(Path(sys.argv[1]))
    said = "read"
except InputError as error:
    said = type(error).__name__
print(said, int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) // 1024)
"""


def packed(bits: int, first: bytes = b"", mib: int = MIB) -> Iterator[bytes]:
    """A stream of zlib of ``first`` and then zeros."""
    engine = zlib.compressobj(9, zlib.DEFLATED, bits)
    yield engine.compress(first)
    for _ in range(mib):
        yield engine.compress(ZEROS)
    yield engine.flush()


def made(folder: Path) -> Iterator[tuple[str, Path, Path]]:
    """Kind of input, one that is sound, and the bomb."""
    write_phantom_dicom(folder / "ct", spacing_zyx=(6.0, 3.0, 3.0))
    image = sitk.ReadImage(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder / "ct")))

    name = "0001.dcm"
    whole, bomb = folder / "deflated", folder / "deflated bomb"
    for place in (whole, bomb):
        place.mkdir()
        for path in (folder / "ct").iterdir():
            data = dcmread(path)
            data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
            data.save_as(place / path.name)
    content = (bomb / name).read_bytes()
    start = 144 + struct.unpack("<I", content[140:144])[0]
    plain = zlib.decompress(content[start:], -15)
    (bomb / name).write_bytes(content[:start] + b"".join(packed(-15, plain)))
    yield "DICOM, deflated", whole, bomb

    images = (("NIfTI, gzip", ".nii.gz", 31), ("NRRD, gzip", ".nrrd", 31), ("MetaImage, zlib", ".mha", 15))
    for kind, suffix, bits in images:
        whole, bomb = folder / f"whole{suffix}", folder / f"bomb{suffix}"
        sitk.WriteImage(image, str(whole), useCompression=True)
        content = whole.read_bytes()
        start = {".nii.gz": 0, ".nrrd": content.find(b"\n\n") + 2, ".mha": content.find(b"LOCAL\n") + 6}[suffix]
        plain = zlib.decompress(content[start:], 47)
        bomb.write_bytes(content[:start] + b"".join(packed(bits, plain)))
        yield kind, whole, bomb

    whole, bomb = folder / "whole.zip", folder / "bomb.zip"
    for target, mib in ((whole, 0), (bomb, MIB)):
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in (folder / "ct").iterdir():
                archive.write(path, path.name)
            if mib:
                with archive.open("more.dcm", "w", force_zip64=True) as member:
                    for _ in range(mib):
                        member.write(ZEROS)
    yield "zip, deflated", whole, bomb

    whole, bomb = folder / "whole.png", folder / "bomb.png"
    whole.write_bytes(png(512, 512))
    bomb.write_bytes(png(30_000, 30_000))
    yield "PNG", whole, bomb


def png(width: int, height: int) -> bytes:
    """A black picture, grey of 8 bits."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    engine, rows = zlib.compressobj(9), io.BytesIO()
    for _ in range(height):
        rows.write(engine.compress(bytes(1 + width)))
    rows.write(engine.flush())
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows.getvalue()) + chunk(b"IEND", b"")


def read(path: Path) -> tuple[str, int]:
    """The outcome of an input, and the peak memory of its process in MiB."""
    words = [sys.executable, "-c", READ, str(path)]
    said, mib = subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()
    return said, int(mib)


def main() -> None:
    """Print the table of docs/safety.md."""
    print("| input | bomb on the disk, MiB | becomes | peak, MiB | peak of the sound one, MiB |")
    print("| --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as name:
        for kind, whole, bomb in made(Path(name)):
            size = sum(path.stat().st_size for path in (bomb.iterdir() if bomb.is_dir() else [bomb])) / 2**20
            said, peak = read(bomb)
            fine, usual = read(whole)
            assert fine == "read", (kind, fine)
            print(f"| {kind} | {size:.1f} | `{said}` | {peak} | {usual} |")


if __name__ == "__main__":
    main()
