"""Nothing calls out, nothing is left in the home folder, and importing costs next to nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import REPOSITORY

WATCH = """
import os, sys

def watch(event, args):
    if event == "socket.__new__" or (event == "socket.bind" and args[1][:2] in OWN):
        return
    if event.startswith(("socket.", "urllib.", "http.", "ftplib.", "smtplib.")) or event in STARTS:
        with open(os.environ["CALLS"], "a") as log:
            log.write(f"{event} {args}\\n")
        raise OSError(f"blocked by the test: {event} {args}")

OWN = (("127.0.0.1", 0), ("::1", 0))
STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "os.startfile")
sys.addaudithook(watch)
"""
"""Python runs this before anything else, in every process that inherits the environment: an audit hook sees every
socket that is connected, sends, looks up a name or is bound, whoever opens it, and every process that is started to do
so elsewhere. A socket that is only made, or bound to any port of the machine's own loopback address, reaches nobody:
urllib3 does so when it is imported, to learn whether there is IPv6, and pydicom imports it where it is installed."""


def run(tmp_path: Path, *command: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """Run Python without network, with a home of its own; what it tried comes back beside what it printed."""
    (tmp_path / "site").mkdir(exist_ok=True)
    (tmp_path / "home").mkdir(exist_ok=True)
    (tmp_path / "site" / "sitecustomize.py").write_text(WATCH)
    calls = tmp_path / "calls.txt"
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("XDG_")},
        "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(REPOSITORY / "src")]),
        "HOME": str(tmp_path / "home"),
        "USERPROFILE": str(tmp_path / "home"),
        "CALLS": str(calls),
    }
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=environment, cwd=tmp_path, timeout=300
    )
    return done, calls.read_text() if calls.exists() else ""


@pytest.mark.parametrize(
    "attempt",
    [
        "import socket; socket.create_connection(('127.0.0.1', 9))",
        "import socket; socket.getaddrinfo('example.org', 80)",
        "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'', ('127.0.0.1', 9))",
        "import socket; socket.socket().connect(('127.0.0.1', 9))",
        "import socket; socket.socket().bind(('0.0.0.0', 0))",
        "import subprocess, sys; subprocess.run([sys.executable, '-c', 'pass'])",
    ],
)
def test_the_watch_sees_what_it_must(tmp_path: Path, attempt: str) -> None:
    done, calls = run(tmp_path, "-c", attempt)
    assert done.returncode != 0
    assert calls


def test_an_analysis_calls_nobody_and_leaves_nothing_at_home(dicom: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done, calls = run(tmp_path, "-m", "nodulens", "analyze", str(dicom), "-o", str(out), "--threshold", "0.02")
    assert done.returncode == 0, done.stderr
    assert calls == ""
    assert list((tmp_path / "home").iterdir()) == []
    assert json.loads((out / "report.json").read_text("utf-8"))["nodules"]
    assert done.stderr == "", "quiet in a pipe"
    assert done.stdout.split() == [str(out / "report.html")]


def test_import_costs_numpy_alone(tmp_path: Path) -> None:
    code = "import json, sys, nodulens; print(json.dumps([m.split('.')[0] for m in sys.modules]))"
    done, calls = run(tmp_path, "-c", code)
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stdout)) - set(sys.stdlib_module_names)
    assert {name for name in loaded if not name.startswith("_")} <= {"nodulens", "numpy", "sitecustomize"}
    assert calls == ""


def test_every_public_name_is_there() -> None:
    import nodulens

    assert {name for name in nodulens.__all__ if not hasattr(nodulens, name)} == set()
    assert set(nodulens.__all__) <= set(dir(nodulens))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = nodulens.no_such_name
