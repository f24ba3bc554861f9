"""Damaged and hostile DICOM: codecs that die, sizes that lie, what unfolds without end."""

from __future__ import annotations

import os
import signal
import struct
import zlib
from pathlib import Path

import jpeg_ls
import numpy as np
import pytest
from pydicom.dataset import Dataset, FileDataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.filewriter import dcmwrite
from pydicom.pixels import get_decoder
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from dicom_files import INTERCEPT, body, multiframe, pixels, save, slices
from nodulens.errors import UnreadableFile
from nodulens.io import decoders, dicom_stream, list_series, read
from nodulens.io.codestream import codestream_size

PLUGINS = {RLELossless: "pylibjpeg", JPEG2000Lossless: "pylibjpeg", JPEGLSLossless: "pyjpegls"}


def compressed(syntax: str) -> list[FileDataset]:
    series = slices()
    for data in series:
        data.compress(syntax, encoding_plugin=PLUGINS[syntax], generate_instance_uid=False)
    return series


def codestream(data: Dataset) -> bytes:
    return get_frame(data.PixelData, 0, number_of_frames=1)


def frame(syntax: str, data: bytes) -> decoders.EncodedFrame:
    return decoders.EncodedFrame(syntax, data, (40, 48), 16, 16, False, "MONOCHROME2")


def read_fails(folder: Path, phrase: str) -> None:
    with pytest.raises(UnreadableFile, match=phrase):
        read(folder)


# --- codecs --------------------------------------------------------------------------------------


def lossless_jpeg_with_bad_tables() -> bytes:
    """A JPEG whose Huffman table holds no code that its scan uses: gdcm aborts on some of these, and fails on all."""
    head = b"\xff\xd8\xff\xc3" + struct.pack(">HBHHBBBB", 11, 16, 40, 48, 1, 1, 0x11, 0)
    table = b"\xff\xc4" + struct.pack(">HB", 19, 0) + bytes(16)
    scan = b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, 1, 0, 1, 0, 0) + b"\x55" * 400
    return head + table + scan + b"\xff\xd9"


def test_a_codec_that_panics_is_an_error(tmp_path: Path) -> None:
    series = compressed(RLELossless)
    data = bytearray(codestream(series[4]))
    # The first run repeats a byte more often than the segment has pixels.
    first = struct.unpack_from("<I", data, 4)[0]
    data[first:] = bytes([129, 7]) * ((len(data) - first) // 2) + data[len(data) :]
    series[4].PixelData = encapsulate([bytes(data)])
    read_fails(save(tmp_path, series), r"0004\.dcm: the pixel data are truncated or damaged \(.+\); copy or export")


def test_a_decoder_that_dies_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a codec does to its process, the next image is decoded by a new one."""
    series = compressed(JPEG2000Lossless)
    good = frame(JPEG2000Lossless, codestream(series[0]))
    worker = Path(decoders.__file__).with_name("decode_worker.py").read_text()
    assert "decoder.as_array" in worker
    dying = tmp_path / "decode_worker.py"
    dying.write_text(worker.replace("    decoder = get_decoder", "    os.abort()\n    decoder = get_decoder"))
    pool = decoders._Pool()
    with monkeypatch.context() as patch:
        patch.setattr(decoders, "__file__", str(tmp_path / "decoders.py"))
        for _ in range(2):
            with pytest.raises(decoders.DecodingError, match="the decoder died, SIGABRT"):
                pool.decode(good).result()
    np.testing.assert_array_equal(pool.decode(good).result(), body()[0].astype(np.int32) - INTERCEPT)
    pool.close()


@pytest.mark.parametrize("bits", [(8, 8), (16, 7), (16, 12), (16, 16)])
@pytest.mark.parametrize("signed", [False, True])
def test_jpeg_ls_gives_the_values_of_pydicom(bits: tuple[int, int], signed: bool) -> None:
    """Its codec is called directly; pydicom stays the reference for signs and for unused bits."""
    allocated, stored = bits
    image = np.random.default_rng(0).integers(0, 2**stored, (40, 48)).astype(f"u{1 if stored <= 8 else 2}")
    image[0] = 2**stored - 1
    encoded = decoders.EncodedFrame(
        JPEGLSLossless, bytes(jpeg_ls.encode_array(image)), (40, 48), allocated, stored, signed, "MONOCHROME2"
    )
    options = {
        "rows": 40,
        "columns": 48,
        "number_of_frames": 1,
        "samples_per_pixel": 1,
        "bits_allocated": allocated,
        "bits_stored": stored,
        "pixel_representation": int(signed),
        "photometric_interpretation": "MONOCHROME2",
    }
    wanted, _ = get_decoder(JPEGLSLossless).as_array(encapsulate([encoded.data]), index=0, raw=True, **options)
    got = decoders.decode(encoded).result()
    assert got.dtype == wanted.dtype
    np.testing.assert_array_equal(got, wanted)


def test_jpeg_ls_of_more_bits_than_announced_is_an_error() -> None:
    wide = bytes(jpeg_ls.encode_array(np.full((40, 48), 700, np.uint16)))
    with pytest.raises(decoders.DecodingError, match="10 bits are compressed, and 8 announced"):
        decoders.decode(decoders.EncodedFrame(JPEGLSLossless, wide, (40, 48), 8, 8, False, "MONOCHROME2")).result()


def test_a_decoder_that_never_ends_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "decode_worker.py").write_text("while True:\n    pass\n")
    monkeypatch.setattr(decoders, "__file__", str(tmp_path / "decoders.py"))
    monkeypatch.setattr(decoders, "TIMEOUT_S", 0.3)
    pool = decoders._Pool()
    with pytest.raises(decoders.DecodingError, match="no answer within 0 s"):
        pool.decode(frame(JPEGLSLossless, b"")).result()
    pool.close()


def test_a_decoder_killed_between_two_scans_is_started_anew(tmp_path: Path) -> None:
    save(tmp_path, compressed(JPEG2000Lossless))
    np.testing.assert_array_equal(read(tmp_path).hu, body())
    running = [one._process for one in decoders._pool(os.getpid())._all if one._process]
    assert running
    for process in running:
        process.send_signal(signal.SIGKILL)
        process.wait()
    np.testing.assert_array_equal(read(tmp_path).hu, body())


@pytest.mark.parametrize("syntax", PLUGINS)
def test_any_damage_is_an_error_or_an_image(syntax: str) -> None:
    """Seeded: bytes changed, bits flipped, pieces cut out; nothing else comes back from the decoders."""
    whole = codestream(compressed(syntax)[3])
    rng = np.random.default_rng(5)
    outcomes = []
    for _ in range(40):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 6)):
            at = int(rng.integers(2, len(data)))
            if rng.random() < 0.7:
                data[at] = rng.integers(256)
            else:
                del data[at : at + int(rng.integers(1, 40))]
        try:
            size = codestream_size(syntax, bytes(data))
            if size in (None, (40, 48, 1)):
                outcomes.append(decoders.decode(frame(syntax, bytes(data))).result().shape)
        except (ValueError, decoders.DecodingError) as error:
            outcomes.append(str(error))
    assert any(outcome != (40, 48) for outcome in outcomes)


# --- sizes that lie ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("syntax", "at", "form"), [(JPEG2000Lossless, 8, ">II"), (JPEGLSLossless, None, ">HH"), (JPEGLosslessSV1, 7, ">HH")]
)
def test_a_codestream_of_another_size_is_not_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syntax: str, at: int | None, form: str
) -> None:
    series = slices() if syntax == JPEGLosslessSV1 else compressed(syntax)
    stream = bytearray(lossless_jpeg_with_bad_tables() if syntax == JPEGLosslessSV1 else codestream(series[2]))
    start = stream.index(b"\xff\xf7") + 5 if at is None else at
    struct.pack_into(form, stream, start, 65535, 65535)
    for data in series:
        data.file_meta.TransferSyntaxUID = syntax
        data.PixelData = encapsulate([bytes(stream)])
        data["PixelData"].is_undefined_length = True
    monkeypatch.setattr(decoders, "_pool", None)
    read_fails(save(tmp_path, series), "40 × 48 pixels are announced, and 65535 × 65535 of 1 values compressed")


@pytest.mark.parametrize("syntax", PLUGINS)
def test_what_is_no_codestream_is_not_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, syntax: str) -> None:
    series = compressed(syntax)
    series[3].PixelData = encapsulate([b"\xff\xd8 nothing of the kind"])
    monkeypatch.setattr(decoders, "_pool", None)
    series = series[3:5]
    series[1].PixelData = series[0].PixelData
    read_fails(save(tmp_path, series), "the compressed image|no JPEG marker")


def test_a_compressed_image_larger_than_any(tmp_path: Path) -> None:
    series = compressed(JPEG2000Lossless)
    for data in series:
        data.Rows = data.Columns = 65535
    read_fails(save(tmp_path, series), "65535 × 65535 compressed pixels are announced")


def test_frames_that_are_not_there(tmp_path: Path) -> None:
    data = multiframe()
    data.PixelData = data.PixelData[: len(data.PixelData) // 2]
    read_fails(save(tmp_path, [data]), r"truncated or damaged \(23,040 of 46,080 bytes\)")
    (info,) = list_series(tmp_path)
    assert not info.readable and "23,040 of 46,080 bytes" in info.problems[0]


def test_bits_that_no_image_has(tmp_path: Path) -> None:
    read_fails(save(tmp_path, slices(BitsAllocated=12)), "16 of 12 bits hold a value")


def test_a_length_that_lies_asks_for_no_memory(tmp_path: Path) -> None:
    save(tmp_path, slices())
    for file in tmp_path.iterdir():
        data = file.read_bytes()
        at = data.index(b"\xe0\x7f\x10\x00OW")
        file.write_bytes(data[: at + 8] + struct.pack("<I", 2**32 - 2) + data[at + 12 :])
    # The pixels are there, and no more than they are is read.
    np.testing.assert_array_equal(read(tmp_path).hu, body())


# --- what unfolds --------------------------------------------------------------------------------


def deflated(folder: Path, series: list[FileDataset]) -> Path:
    for data in series:
        data.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    return save(folder, series)


def test_deflated(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read(deflated(tmp_path, slices())).hu, body())


def test_deflated_frames(tmp_path: Path) -> None:
    np.testing.assert_array_equal(read(deflated(tmp_path, [multiframe()])).hu, body())


def test_a_deflated_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_stream, "FREE_INFLATED_BYTES", 2**20)
    file = deflated(tmp_path, slices(body()[:1])) / "0000.dcm"
    data = file.read_bytes()
    head = data[: data.index(b"1.2.840.10008.1.2.1.99")]
    length = struct.unpack_from("<I", data, 140)[0]
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = packer.compress(bytes(8 * 2**20)) + packer.flush()
    assert len(head) < 144 + length
    file.write_bytes(data[: 144 + length] + bomb)
    read_fails(tmp_path, r"0000\.dcm: 0\.0 MiB of deflated DICOM unpack to more than 1 MiB")


@pytest.mark.parametrize("rest", [b"", b"\x07", b"\x4b\x4c"])
def test_deflated_and_damaged(tmp_path: Path, rest: bytes) -> None:
    file = deflated(tmp_path, slices(body()[:1])) / "0000.dcm"
    data = file.read_bytes()
    start = 144 + struct.unpack_from("<I", data, 140)[0]
    file.write_bytes(data[:start] + rest)
    read_fails(tmp_path, "the deflated DICOM (is damaged|ends early)|ends early")


def test_sequences_in_sequences_in_sequences(tmp_path: Path) -> None:
    file = save(tmp_path, slices(body()[:1])) / "0000.dcm"
    data = file.read_bytes()
    at = data.index(b"\x08\x00\x60\x00CS")  # before Modality
    nested = b"\x08\x00\x15\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 20_000
    file.write_bytes(data[:at] + nested + data[at:])
    read_fails(tmp_path, r"0000\.dcm: the DICOM header is damaged \(.*recursion")


def test_a_header_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_stream, "READ_COST_BYTES", 2**16)
    file = save(tmp_path, slices(body()[:1])) / "0000.dcm"
    data = file.read_bytes()
    at = data.index(b"\x08\x00\x60\x00CS")
    file.write_bytes(data[:at] + b"\x09\x00\x01\x00LO\0\0" * 3000 + data[at:])
    read_fails(tmp_path, "the header is larger than that of any CT")


def test_private_elements_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    series = slices()
    for data in series:
        data.add_new((0x0099, 0x1001), "OB", bytes(200_000))
    save(tmp_path, series)
    sizes: list[int] = []
    plain = dicom_stream.DicomStream.read

    def counted(self: dicom_stream.DicomStream, size: int = -1) -> bytes:
        sizes.append(size)
        return plain(self, size)

    monkeypatch.setattr(dicom_stream.DicomStream, "read", counted)
    np.testing.assert_array_equal(read(tmp_path).hu, body())
    assert max(sizes) == 40 * 48 * 2


@pytest.mark.parametrize(
    "name", ["hex", "rot13", "zlib_codec", "undefined", "idna", "no such thing", ["ISO 2022 IR 6", "hex"], "\\hex"]
)
def test_character_sets_that_are_none(tmp_path: Path, name: str | list[str]) -> None:
    first = slices(SpecificCharacterSet="ISO_IR 100", PatientName="Müller^Ä")
    save(tmp_path, first)
    listed = name if isinstance(name, str) else "\\".join(name)
    for file in tmp_path.iterdir():
        data = file.read_bytes()
        text = (listed + " " * (len(listed) % 2)).encode()
        old = b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100"
        assert old in data
        file.write_bytes(data.replace(old, b"\x08\x00\x05\x00CS" + struct.pack("<H", len(text)) + text))
    volume = read(tmp_path)
    (warning,) = volume.source.warnings
    assert "character set" in warning and "is unknown" in warning
    assert volume.source.patient is not None and volume.source.patient.name.startswith("M")
    assert list_series(tmp_path)[0].problems == (warning,)


@pytest.mark.parametrize("name", ["ISO_IR 192", "ISO IR 100", "iso_ir 100", "ISO 2022 IR 87", ""])
def test_character_sets_as_they_are_spelt(tmp_path: Path, name: str) -> None:
    series = slices()
    for data in series:
        data.SpecificCharacterSet = name
    assert read(save(tmp_path, series)).source.warnings == ()


def test_big_endian(tmp_path: Path) -> None:
    for z, data in enumerate(slices()):
        data.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
        pixels(data, body()[z].astype(np.int32) - INTERCEPT)
        data.PixelData = (body()[z].astype(np.int32) - INTERCEPT).astype(">u2").tobytes()
        dcmwrite(tmp_path / f"{z}.dcm", data, implicit_vr=False, little_endian=False, force_encoding=True)
    np.testing.assert_array_equal(read(tmp_path).hu, body())


def test_compressed_in_several_fragments(tmp_path: Path) -> None:
    series = slices()
    for data in series:
        data.compress(JPEG2000Lossless, encoding_plugin="pylibjpeg", generate_instance_uid=False)
        data.PixelData = encapsulate([codestream(data)], fragments_per_frame=3)
    np.testing.assert_array_equal(read(save(tmp_path, series)).hu, body())
