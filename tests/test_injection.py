"""Text from strangers: formulas in tables, escapes for terminals, markup for pages and for rich."""

from __future__ import annotations

import csv
import errno
import io
import json
import struct
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

import dicom_files
import made_reports
from conftest import Run
from nodulens.core.text import csv_cell, printable, printable_message
from nodulens.errors import (
    BadOption,
    CannotWrite,
    InputError,
    NotFound,
    TooLarge,
    UnreadableFile,
    as_input_error,
    input_errors,
)
from nodulens.io.tables import read_table, table_text
from nodulens.report.csv import to_csv
from nodulens.report.json import to_json

HOSTILE = "\x1b[31m\x1b]0;owned\x07[bold red]x[/] [link=https://evil]y[/link]\r\x9b2J\u202e\u2028"


def harmless(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


# ---- Terminals


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, ümläut 胸部 − µ", "plain, ümläut 胸部 − µ"),
        ("a\nb\r\tc", r"a\x0ab\x0d\x09c"),
        ("\x1b[31m\x9b", r"\x1b[31m\x9b"),
        ("\u202eevil\u2066", r"\u202eevil\u2066"),
        ("zero\u200bwidth\ufeff", r"zero\u200bwidth\ufeff"),
        ("line\u2028end\u2029", r"line\u2028end\u2029"),
        ("bytes \udcff", r"bytes \udcff"),
        ("tag \U000e0041", r"tag \U000e0041"),
        ("narrow\u202fspace\xa0", "narrow\u202fspace\xa0"),
    ],
)
def test_what_a_terminal_acts_on_is_written_as_its_number(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_lists_in_messages_stay_lists() -> None:
    assert printable_message("two:\n  a\n  b\nnodulens: all is well") == "two:\n  a\n  b\\x0anodulens: all is well"


def test_info_shows_headers_as_they_stand(run: Run, tmp_path: Path) -> None:
    text = HOSTILE.replace("\u202e\u2028", "")  # the default character set of DICOM has no such letters
    series = dicom_files.slices(ConvolutionKernel=text, SeriesDescription=text, Modality="CT")
    folder = dicom_files.save(tmp_path / "ct", series)
    done = run("info", folder)
    assert done.code == 0 and harmless(done.out) and "[bold red]x[/] [link=https://evil]y[/link]" in done.out
    assert json.loads(run("info", folder, "--json").out)[0]["kernel"]


@pytest.mark.parametrize("command", ["info", "analyze"])
def test_names_of_files_do_no_harm_in_messages(run: Run, command: str, tmp_path: Path) -> None:
    more = ("-o", tmp_path / "out") if command == "analyze" else ()
    for path in (tmp_path / f"no{HOSTILE.replace('/', '')}", tmp_path / "a\nnodulens: all is well"):
        done = run(command, path, *more)
        assert done.code == 2 and harmless(done.err) and done.err.count("\n") == 1, "one line, whatever the name"
        path.write_bytes(b"no scan")
        done = run(command, path, *more)
        assert done.code == 2 and harmless(done.err) and done.err.count("\n") == 1


def test_a_choice_of_series_is_one_line_a_series(run: Run, tmp_path: Path) -> None:
    for n in (1, 2):
        made = dicom_files.slices(SeriesDescription="x\n  1.2.3.4  the right one", ConvolutionKernel="y\x1b[31m")
        dicom_files.save(tmp_path / "ct\n  1.2.3  10 slices" / str(n), made)
    done = run("analyze", tmp_path / "ct\n  1.2.3  10 slices", "-o", tmp_path / "out")
    assert done.code == 2 and done.err.count("\n") == 3 and harmless(done.err)


def test_a_report_from_a_stranger_is_shown_as_text(run: Run, tmp_path: Path) -> None:
    report = made_reports.report(made_reports.scan((44, 40, 100)), 1)
    (nodule,) = report.nodules
    hostile = replace(nodule, position=replace(nodule.position, lobe_estimate=HOSTILE))
    (tmp_path / "report.json").write_text(to_json(replace(report, nodules=(hostile,))), "utf-8")
    done = run("ask", tmp_path, "largest nodule")
    assert done.code == 0 and harmless(done.out) and "[bold red]x[/]" in done.out.replace("\n", "")


# ---- Tables


@pytest.mark.parametrize(
    "text",
    [
        "=1+1",
        "+1+1",
        "-1+1",
        "@SUM(A1)",
        " =1",
        "\u3000=1",
        "＝1+1",
        "＋1",
        "－1+2",
        "＠x",
        "-cmd|' /C calc'!A0",
        "-nan",
    ],
)
def test_no_cell_is_a_formula(text: str) -> None:
    (row,) = csv.reader(io.StringIO(csv_cell(text)))
    assert row == [f"'{text}"]


@pytest.mark.parametrize("text", ["\t=1", "\r=1", "\n=1", "a\r=1", "a\n=1", "a\u2028=1", "\ufeff=1", "\x00=1"])
def test_no_cell_begins_another(text: str) -> None:
    cell = csv_cell(text)
    assert cell.isprintable() and not cell.strip('"').lstrip().startswith("=")
    assert len(cell.splitlines()) == 1


@pytest.mark.parametrize("text", ["a,b", 'say "x"', "a;=1+1", "a|b", " a ", "plain", "", "ümläut"])
def test_cells_read_back_as_they_were(text: str) -> None:
    assert next(csv.reader(io.StringIO(f"x,{csv_cell(text)}\n"))) == ["x", text]
    if ";" in text:  # where a semicolon divides, the cell is one as well
        assert next(csv.reader(io.StringIO(csv_cell(text)), delimiter=";")) == [text]


def test_numbers_stay_numbers() -> None:
    values = (-1, -1.5, 0.1 + 0.2, -40.0, "-12", "+3.5", "-1e-5", True, None, float("nan"))
    assert [csv_cell(value) for value in values] == [
        "-1", "-1.5", "0.30000000000000004", "-40.0", "-12", "+3.5", "-1e-5", "true", "", "nan"
    ]  # fmt: skip
    assert [csv_cell(value, 6) for value in (-40.0, 0.1 + 0.2, 1234567.0)] == ["-40", "0.3", "1.23457e+06"]


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    rows = [{"name": "a,b", "x": -1.5}, {"name": "=1", "x": 2}]
    (tmp_path / "t.csv").write_text(table_text(("name", "x", "none"), rows), "utf-8")
    table = read_table(tmp_path / "t.csv", ["name", "x", "none"])
    assert table.cells["name"] == ("a,b", "'=1") and table.numbers("x").tolist() == [-1.5, 2.0]
    assert table.cells["none"] == ("", "")
    with pytest.raises(KeyError, match="other"):
        table_text(("x",), [{"other": 1}])


def test_nodules_csv_has_as_many_lines_as_nodules() -> None:
    report = made_reports.report(made_reports.scan((44, 40, 100)), 2)
    hostile = replace(
        report, case="\r=cmd", nodules=tuple(replace(n, warnings=("a\r=1", "b\n=2")) for n in report.nodules)
    )
    lines = to_csv(hostile).splitlines()
    assert len(lines) == 3 and not any("=1," in line.split("|")[0] and line.startswith("=") for line in lines)
    assert all(len(row) == len(lines[0].split(",")) for row in csv.reader(lines))


# ---- Whose error it is


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (FileNotFoundError(errno.ENOENT, "", "/x/scan"), NotFound),
        (NotADirectoryError(errno.ENOTDIR, "", "/x/scan"), NotFound),
        (PermissionError(errno.EACCES, "", "/x/scan"), UnreadableFile),
        (OSError(errno.ENAMETOOLONG, "", "x" * 300), UnreadableFile),
        (OSError(errno.EIO, ""), UnreadableFile),
        (OSError(errno.ELOOP, "", b"/x"), UnreadableFile),
        (OSError(errno.ENOSPC, ""), CannotWrite),
        (OSError(errno.EROFS, "", "/x"), CannotWrite),
        (OSError(errno.EDQUOT, ""), CannotWrite),
        (OSError(errno.EFBIG, ""), CannotWrite),
        (MemoryError(), TooLarge),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), UnreadableFile),
        (UnicodeEncodeError("utf-8", "\udcff", 0, 1, "bad"), UnreadableFile),
        (json.JSONDecodeError("no", "x", 0), UnreadableFile),
        (RecursionError(), UnreadableFile),
        (EOFError(), UnreadableFile),
        (struct.error("short"), UnreadableFile),
        (zlib.error("bad"), UnreadableFile),
        (BadOption("as it is"), BadOption),
    ],
)
def test_errors_of_the_input(error: Exception, kind: type[InputError]) -> None:
    found = as_input_error(error)
    assert type(found) is kind
    with pytest.raises(kind), input_errors():
        raise error


@pytest.mark.parametrize(
    "error",
    [
        ValueError("ours"),
        KeyError("ours"),
        ZeroDivisionError(),
        RuntimeError(),
        OSError("no number"),
        OSError(errno.EMFILE, "too many files"),
        FileNotFoundError(errno.ENOENT, "", str(Path(as_input_error.__code__.co_filename).parent / "templates" / "x")),
    ],
)
def test_errors_of_ours(error: Exception) -> None:
    assert as_input_error(error) is None
    with pytest.raises(type(error)) as caught, input_errors():
        raise error
    assert caught.value is error


def test_what_stands_in_a_file_is_not_repeated() -> None:
    for error in (
        UnicodeDecodeError("utf-8", b"Doe", 0, 1, "Doe"),
        json.JSONDecodeError("Doe", "Doe", 0),
        EOFError("Doe"),
    ):
        assert "Doe" not in str(as_input_error(error))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (MemoryError(), 2),
        (OSError(errno.EIO, "x"), 2),
        (UnicodeError("x"), 2),
        (ValueError("x"), 1),
        (KeyError("x"), 1),
    ],
)
def test_exit_codes(run: Run, error: Exception, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("nodulens.io.list_series", broken)
    done = run("info", tmp_path)
    assert done.code == code and ("Traceback" in done.err) is (code == 1)
