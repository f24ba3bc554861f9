"""The Python interface: what ``nodulens`` names, that it is there in any order of imports, and what it takes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import made_outliners
import made_reports
import nodulens as nl
import small_scans
from nodulens.errors import BadOption, BadPrompt
from nodulens.methods.load import load_method
from nodulens.runtime import engine

CENTRE, DIAMETER = made_reports.NODULES[0]


@pytest.mark.parametrize("name", nl.__all__)
def test_every_name_is_there_and_says_what_it_is(name: str) -> None:
    found = getattr(nl, name)
    assert name in dir(nl) and (isinstance(found, str) or (found.__doc__ and "." in found.__doc__))


def test_no_other_name_is_there() -> None:
    with pytest.raises(AttributeError, match="analyse"):
        nl.analyse  # noqa: B018


@pytest.mark.parametrize("first", ["", "import nodulens.train.options", "import nodulens.methods.load, nodulens.train"])
def test_the_function_train_is_there_whatever_was_imported_before(first: str) -> None:
    """It has the name of a package, which Python puts in its place."""
    code = f"{first}\nimport nodulens as nl\nfor _ in range(2):\n    try: nl.train('none', 'data', 'run')\n"
    code += "    except nl.NodulensError as error: print(error)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("There is no recipe 'none'") == 2


@pytest.mark.parametrize("first", ["", "import nodulens.evaluate.froc", "import nodulens.evaluate.runs"])
def test_the_function_evaluate_is_there_whatever_was_imported_before(first: str) -> None:
    code = f"{first}\nimport nodulens as nl\nfor _ in range(2):\n    try: nl.evaluate('none', 'data')\n"
    code += "    except nl.NodulensError as error: print(error)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.count("There is no recipe 'none'") == 2


def test_importing_it_loads_numpy_alone() -> None:
    code = "import sys, nodulens; print(*{m.split('.')[0] for m in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    heavy = {"scipy", "SimpleITK", "pydicom", "openvino", "typer", "rich", "lark", "torch"}
    assert not set(done.stdout.split()) & heavy


def test_the_command_line_starts_without_what_a_command_needs() -> None:
    code = "import sys, nodulens.apps.cli; print(*{m.split('.')[0] for m in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {
        "numpy",
        "scipy",
        "SimpleITK",
        "pydicom",
        "openvino",
        "lark",
        "torch",
        "yaml",
    }


def test_loading_the_default_method_spares_what_it_does_not_need() -> None:
    """Each of these takes longer to import than a nodule to grade."""
    code = "import sys, nodulens as nl; nl.load_method('default'); nl.analyze; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "openvino" in done.stdout.split()
    assert not set(done.stdout.split()) & {"scipy.stats", "scipy.optimize", "skimage", "sklearn", "torch", "jinja2"}


# ---- methods


def test_a_method_is_named_loaded_or_a_recipe() -> None:
    ct, low = small_scans.noisy(), small_scans.LOW
    loaded = nl.load_method("default", settings=[f"threshold={low}", "max_findings=1"])
    by_recipe = nl.analyze(ct, method=nl.Recipe(threshold=low, max_findings=1))
    assert isinstance(loaded, nl.Method) and loaded.threshold == low
    assert replace(nl.analyze(ct, method=loaded), timing_s=by_recipe.timing_s) == by_recipe
    with pytest.raises(BadOption, match="There is no recipe 'none'"):
        nl.analyze(ct, method="none")


def test_a_network_is_read_and_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until its file changes."""
    run = made_outliners.write(tmp_path / "run")
    compiled: list[bytes] = []

    def counting(content: bytes, threads: int) -> Callable[..., object]:
        compiled.append(content)
        return compile_bytes(content, threads)

    compile_bytes = engine.compile_bytes
    monkeypatch.setattr(engine, "compile_bytes", counting)
    first, again = load_method(run, threads=1), load_method(str(run), threads=1)
    for part in ("segmenter", "filter"):
        assert compiled.count((run / f"{part}.onnx").read_bytes()) == 1
        assert first.models.own[part].run is again.models.own[part].run
    made_outliners.write(run)
    assert load_method(run, threads=1).models.own["filter"].run is not first.models.own["filter"].run


# ---- one nodule


def voxel(ct: nl.Volume, point: tuple[float, ...]) -> tuple[float, ...]:
    """A point as (x, y, z) in voxels of the stored array."""
    z, y, x = ct.geometry.to_index(np.array(point))
    return x, y, ct.geometry.shape[0] - 1 - z if ct.source.z_reversed else z


def test_a_point_a_box_and_a_mask_prompt_the_same_nodule() -> None:
    ct = small_scans.noisy()
    half = np.full(3, DIAMETER / 2)
    low, high = (tuple(map(float, CENTRE + sign * half)) for sign in (-1, 1))
    index = np.stack(np.meshgrid(*(np.arange(n) for n in ct.geometry.shape), indexing="ij"), -1)
    ball = ((ct.geometry.to_lps(index) - CENTRE) ** 2).sum(-1) < (DIAMETER / 2) ** 2
    reports = [
        nl.segment(ct, point=CENTRE),
        nl.segment(ct, point=voxel(ct, CENTRE), space="voxel"),
        nl.segment(ct, box=(*low, *high)),
        nl.segment(ct, mask=nl.Mask(ball.astype(np.uint8), ct.geometry, {1: "nodule"}), method="default"),
    ]
    for report in reports:
        (nodule,) = report.nodules
        assert report.prompted and nodule.score == 1.0 and nodule.mask is not None
        assert np.linalg.norm(np.subtract(nodule.centre_lps, CENTRE)) < 1.5
        found = np.zeros(ball.shape, bool)
        found[nodule.box.slices] = nodule.mask
        assert 2 * (found & ball).sum() / (found.sum() + ball.sum()) > 0.75
    assert reports[0].nodules[0].box == reports[1].nodules[0].box


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ({}, "exactly one of"),
        ({"point": (1, 2, 3), "box": (0, 0, 0, 1, 1, 1)}, "exactly one of"),
        ({"point": (1, 2)}, "2 numbers; 3 are needed"),
        ({"point": (1, 2, float("nan"))}, "not a finite number"),
        ({"point": ("1", "2", "here")}, "not a finite number"),
        ({"box": (1, 2, 3)}, "3 numbers; 6 are needed"),
        ({"point": (1, 2, 3), "space": "ras"}, "lps .* or voxel .*, not 'ras'"),
    ],
)
def test_a_bad_prompt_is_refused_before_the_work(prompt: dict[str, object], said: str) -> None:
    with pytest.raises(BadPrompt, match=said):
        nl.segment(small_scans.noisy(), **prompt)  # type: ignore[arg-type]


def test_a_method_without_a_prompted_network_cannot_be_prompted(outliners: Path) -> None:
    with pytest.raises(BadOption, match="has no prompted network"):
        nl.segment(small_scans.noisy(), point=CENTRE, method=outliners)
    with pytest.raises(BadOption, match="has no prompted network"):
        nl.segment_text(small_scans.noisy(), "largest nodule", method=outliners)
