"""Write the measured figures into README.md and docs/figures.md.

    python scripts/figures.py           write them
    python scripts/figures.py --check   exit with 1 if they are stale

They come from the cards of the weights (written by ``python -m nodulens.train``), docs/scans.json (written by
benchmarks/scans.py) and docs/speed.md (the output of benchmarks/analyze.py). Figures without a file are left out.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ROOT / "src" / "nodulens" / "weights"
SCANS = ROOT / "docs" / "scans.json"
SPEED = ROOT / "docs" / "speed.md"
PAGES = {ROOT / "README.md": "summary", ROOT / "docs" / "figures.md": "details"}
NOTHING = "_Not measured yet: train the networks and run the benchmarks, then `python scripts/figures.py`._"

Figures = dict[str, Any]
Row = Sequence[object]


def main() -> None:
    """Write the blocks, or compare them."""
    stale = [page for page, text in rendered().items() if page.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv[1:]:
        sys.exit("".join(f"{page} is stale: python scripts/figures.py\n" for page in stale) or None)
    for page in stale:
        page.write_text(rendered()[page], encoding="utf-8")


def rendered() -> dict[Path, str]:
    """The pages with their blocks filled in."""
    texts = {"summary": summary(), "details": details()}
    return {page: _filled(page.read_text(encoding="utf-8"), texts[name]) for page, name in PAGES.items()}


def _filled(page: str, text: str) -> str:
    block = f"<!-- figures -->\n{text}\n<!-- end of figures -->"
    return re.sub(r"<!-- figures -->.*<!-- end of figures -->", lambda _: block, page, flags=re.DOTALL)


def summary() -> str:
    """One table: quantity, figure and comparison; basis and command in the first row of each part."""
    rows: list[Row] = []
    for part in (_scan_rows(), _detector_rows(), _segmenter_rows(), _malignancy_rows()):
        rows += [(*row[:3], row[3] if number == 0 else "″") for number, row in enumerate(part)]
    return _table(("what", "measured", "compared with", "on, made by"), rows) if rows else NOTHING


def details() -> str:
    """A section for each part, with the command that made it."""
    parts = [
        ("Whole scans outside all training sets", _scan_command(), _scan_details()),
        ("Detection in cubes", _command("volume"), _detector_details()),
        ("Outlines", _command("segmenter"), _segmenter_details()),
        ("Malignancy", _command("malignancy"), _malignancy_details()),
        ("Speed", "python benchmarks/analyze.py ../shared/data/ct/LIDC-IDRI-0003 [--slices 583 --runs 2]", _speed()),
    ]
    sections = [f"## {title}\n\n{body}\n\nMade by `{command}`." for title, command, body in parts if body]
    return "\n\n".join(sections) or NOTHING


# ---- whole scans


def _scan_rows() -> Iterable[Row]:
    result = _json(SCANS)
    if not result:
        return
    scans = result["scans"]
    where = f"four whole scans outside all training and validation sets; `{result['command']}`"
    found, known = sum(s["found"] for s in scans), sum(s["nodules"] for s in scans)
    yield "known nodules found", f"{found} of {known}", "", where
    other, strict = ([s[key] for s in scans] for key in ("other", "other_strict"))
    mean = "{:.2g} a scan, at most {}".format
    yield (
        "false positives, as LUNA16 counts them",
        mean(sum(other) / len(scans), max(other)),
        f"{mean(sum(strict) / len(scans), max(strict))} by the strict count",
        where,
    )
    for s in (s for s in scans if s.get("outlines")):
        found = [o for o in s["outlines"] if o["centre_off_mm"] is not None]
        dice = ", ".join(f"{o['dice_3d']:.2f}" for o in found)
        off = ", ".join(f"{o['centre_off_mm']:.1f}" for o in found)
        aim = "aim: 0.75, 5 mm" if s["name"] == "LIDC-IDRI-0001" else ""
        yield f"outlines on {s['name']}, 3-D, against its readers", f"Dice {dice}; centre off by {off} mm", aim, where


def _scan_command() -> str:
    return str(_json(SCANS).get("command", ""))


def _scan_details() -> str:
    result = _json(SCANS)
    if not result:
        return ""
    rows = [(s["name"], f"{s['found']} of {s['nodules']}", s["other"], s["other_strict"]) for s in result["scans"]]
    curve = [
        (f"{c['threshold']:.3f}", f"{c['found']} of {c['of']}", f"{c['other_per_scan']:.2f}") for c in _corners(result)
    ]
    return (
        f"At the default threshold of {result['threshold']:.3f}. A mark on a finding that LUNA16 excludes counts "
        "neither way; the strict count forgives nothing.\n\n"
        + _table(("scan", "nodules found", "false positives", "strict"), rows)
        + "\n\nFree response over the four scans: nodules found and false positives at each threshold.\n\n"
        + _table(("threshold", "nodules found", "false positives a scan"), curve)
    )


def _corners(result: Figures) -> list[Figures]:
    """The points of the curve where another nodule is found, and its end."""
    curve = result["curve"]
    risen = [c for before, c in zip([{"found": 0}, *curve], curve, strict=False) if c["found"] > before["found"]]
    return risen if not curve or curve[-1] in risen else [*risen, curve[-1]]


# ---- detection


def _detector_rows() -> Iterable[Row]:
    f = _figures("volume")
    if not f:
        return
    groups, rates = f["sensitivity"], f["fp_rates_in_five_litres"]
    yield (
        "detection in cubes, as LUNA16 scores it but in five litres of lung",
        f"CPM {f['cpm']:.3f} {_interval(f['cpm_interval_95'])}",
        "aim: 0.92",
        _on("volume"),
    )
    one = 1 + rates.index(1)
    sizes = ", ".join(
        f"{group[one]:.2f} ({name})" for name, group in groups.items() if " to " in name and name[0].isdigit()
    )
    yield (
        "sensitivity at one false positive in five litres",
        f"{groups['all'][one]:.3f}; {sizes}; {groups['ground glass'][one]:.2f} (ground glass)",
        "aim: 0.93; 0.80 at 3 to 5 mm and for ground glass",
        _on("volume"),
    )
    at = f["at_threshold"]
    marks = ", ".join(map(str, at["false_positives_in_nodule_free_lungs"]))
    found, masses = at["masses_found"]
    yield (
        f"at the threshold of {_card('volume')['settings']['threshold']:.2f}",
        f"sensitivity {at['sensitivity']:.3f}, {at['false_positives_in_five_litres']:.2f} false positives",
        f"{marks} on scans without nodules; {found} of {masses} masses of 20 to 65 mm found",
        _on("volume"),
    )


def _detector_details() -> str:
    f = _figures("volume")
    if not f:
        return ""
    rates = [f"{rate:g}" for rate in f["fp_rates_in_five_litres"]]
    rows = [
        (name, number, *(f"{value:.2f}" for value in at), f"{sum(at) / len(at):.3f}")
        for name, (number, *at) in f["sensitivity"].items()
    ]
    trusted = [(f"{low:.2f} to {high:.2f}", f"{share:.2f}") for low, high, share in f["reliability"]]
    at = f["at_threshold"]
    return (
        f"{_sentence(f['stands_on'])} {f['proposed']:.1%} of the nodules are marked at any score. Sensitivity by false "
        "positives in five litres of lung, and its mean:\n\n"
        + _table(("nodules", "number", *rates, "CPM"), rows)
        + f"\n\nAt the default threshold of {_card('volume')['settings']['threshold']:.3f}: sensitivity "
        f"{at['sensitivity']:.3f}, {at['false_positives_in_five_litres']:.2f} false positives in five litres, "
        f"{_value(at['false_positives_in_nodule_free_lungs'])} in the nodule-free lungs, and "
        "{} of {} masses found".format(*at["masses_found"])
        + ".\n\nWhat a score means: the share of marks that are nodules, where these are as frequent as in LUNA16's "
        "scans.\n\n" + _table(("score", "nodules"), trusted)
    )


# ---- outlines


KINDS = {
    "box": "the true box",
    "box_shaken": "the box, every face off by 10 %",
    "point": "a point near the middle",
    "point_inside": "a point anywhere inside",
    "candidate": "the strongest candidate",
    "mark": "the detector's mark",
    "mark_corrected": "the mark, corrected by one click",
    "ellipsoid": "(the ellipsoid inscribed in the true box)",
    "ellipsoid_shaken": "(the ellipsoid in the shaken box)",
    "ball_candidate": "(the candidate as a ball)",
}
AIMS = {"box": "aim: 0.86", "point": "aim: 0.83", "mark": "aim: 0.82"}


def _segmenter_rows() -> Iterable[Row]:
    f = _figures("segmenter")
    if not f:
        return
    readers = f["one_reader_against_the_others"][0]
    for kind in ("box", "point", "mark"):
        found = f["cubes"][kind]
        text = f"{found['dice']:.3f} {_interval(found['interval_95'])} on cubes"
        beside = f"{AIMS[kind]}; one reader against the others: {readers:.3f}"
        yield f"3-D Dice from {KINDS[kind]}", text, beside, _on("segmenter")


def _segmenter_details() -> str:
    f = _figures("segmenter")
    if not f:
        return ""
    rows = [
        (
            KINDS[kind],
            found["nodules"],
            f"{found['dice']:.3f} {_interval(found['interval_95'])}",
            f"{found['volume_ratio']:.2f}",
            f"{found['leaked']:.1%}",
            f"{f['stacks'][kind]:.3f}" if kind in f["stacks"] else "–",
        )
        for kind, found in f["cubes"].items()
    ]
    groups = [
        (name, number, *("–" if v is None else f"{v:.3f}" for v in dice))
        for name, (number, *dice) in f["groups"].items()
    ]
    reader = f["one_reader_against_the_others"]
    return (
        f"{_sentence(f['stands_on'])} Mean 3-D Dice against the readers' 50 % consensus, with its interval by patient, "
        "the median ratio of the volumes, and the share of outlines of more than three times the volume. One reader "
        f"against the consensus of the others reaches {reader[0]:.3f} {_interval(reader[1:])} in the same cubes. "
        f"Marks are of {f['marks']}.\n\n"
        + _table(("prompt", "nodules", "Dice, cubes", "volume ratio", "leaked", "Dice, stacks"), rows)
        + "\n\nDice in cubes by group:\n\n"
        + _table(("nodules", "number", "box", "point", "mark"), groups)
        + f"\n\nOf the readers' outlines {f['band']['held_out_of_fold']:.1%} lie in the band that is to hold "
        f"{f['band']['level']:.0%}, its edges chosen on other folds."
    )


# ---- malignancy


GROUPS = {"three_readers_or_more": "all sizes", "six_to_twelve_mm": "6 to 12 mm"}
AUC_AIMS = {"three_readers_or_more": "aim: 0.97", "six_to_twelve_mm": "aim: 0.90"}


def _malignancy_rows() -> Iterable[Row]:
    f = _figures("malignancy")
    if not f:
        return
    for key, name in GROUPS.items():
        g = f[key]
        beside = f"diameter alone {g['diameter_alone']:.3f}; gain {_interval(g['gain_interval_95'])}; {AUC_AIMS[key]}"
        what = f"malignancy, {name} ({g['nodules']} nodules of three readers or more, {g['malignant']} suspicious)"
        yield what, f"AUC {g['auc']:.3f} {_interval(g['auc_interval_95'])}", beside, _on("malignancy")
    for outline, found in list(f["by_outline"].items())[1:]:
        whole, part = (found[key]["auc"] for key in GROUPS)
        diameter = found["three_readers_or_more"]["diameter_alone"]
        number = found["three_readers_or_more"]["nodules"]
        what = f"malignancy in {outline} ({number} nodules)"
        yield what, f"AUC {whole:.3f}, 6 to 12 mm {part:.3f}", f"diameter alone {diameter:.3f}", _on("malignancy")
    c, cut = f["calibration"], f["at_the_cut"]
    yield (
        f"at a probability of {cut['cut']}",
        f"sensitivity {cut['sensitivity']['value']:.3f}, specificity {cut['specificity']['value']:.3f}",
        f"aim: sensitivity 0.85; expected calibration error {c['ece_10_bins']:.3f} (aim: 0.04)",
        _on("malignancy"),
    )
    table = _card("malignancy")["settings"]["interval"]
    held = ", ".join(f"{share:.1%}" for share in table["coverage_by_readers"].values())
    what = f"readers' share inside the interval, nodules of {', '.join(table['coverage_by_readers'])} readers"
    yield what, held, f"nominal {table['level']:.0%} or more", _on("malignancy")


def _malignancy_details() -> str:
    f = _figures("malignancy")
    if not f:
        return ""
    rows = [
        (
            name,
            f"{g['nodules']} ({g['malignant']})",
            f"{g['auc']:.3f} {_interval(g['auc_interval_95'])}",
            f"{g['diameter_alone']:.3f}",
            _interval(g["gain_interval_95"]),
            f"{max(g['gain_p_one_sided'], 0.001):.3f}{' or less' if g['gain_p_one_sided'] < 0.001 else ''}",
        )
        for key, name in GROUPS.items()
        for g in [f[key]]
    ]
    codes = [(code, g["nodules"], f"{g['auc']:.3f}") for code, g in f["by_slice_calibration_code"].items()]
    beside = [
        (
            outline,
            score,
            *(f"{found['auc']:.3f} {_interval(found['auc_interval_95'])}" for found in map(by_group.get, GROUPS)),
        )
        for outline, figures in f["by_outline"].items()
        for score, by_group in figures["each_alone"].items()
    ]
    errors = [
        (
            outline,
            g["calibration"]["nodules"],
            f"{g['calibration']['brier']:.3f}",
            f"{g['calibration']['ece_10_bins']:.3f}",
            *(f"{g['at_the_cut'][k]['value']:.3f}" for k in ("sensitivity", "specificity")),
        )
        for outline, g in f["by_outline"].items()
    ]
    rated = [
        (name, g["nodules"], g["above_3"], "–" if g["auc"] is None else f"{g['auc']:.3f}")
        for name, g in f["attributes"].items()
    ]
    own, cubes = f["own_outlines"]
    return (
        f"{_sentence(f['stands_on'])} The gain is over axial diameter alone, by paired bootstrap over patients.\n\n"
        + _table(("nodules", "number (suspicious)", "AUC (95 %)", "diameter alone", "gain, 95 %", "p"), rows)
        + "\n\nBy outline, and each score alone; the average is that of both log odds, which the program gives. It "
        f"outlines {own} of the {cubes} nodules in cubes by itself.\n\n"
        + _table(("outline", "score", *(f"AUC, {name} (95 %)" for name in GROUPS.values())), beside)
        + "\n\nCalibration, expected error over ten bins of equal width, and decisions at a probability of "
        f"{f['at_the_cut']['cut']}, three readers or more:\n\n"
        + _table(("outline", "nodules", "Brier score", "expected error", "sensitivity", "specificity"), errors)
        + f"\n\n{_card('malignancy')['settings']['interval']['meaning']}\n\n"
        + _trust_details()
        + "\n\nThe network's other outputs, median above 3 against below, stacks of three readers or more:\n\n"
        + _table(("rating", "nodules", "above 3", "AUC"), rated)
        + "\n\nBy how the HU of the training slices were recovered from 8-bit pictures, numbered as in the stacks "
        "(never an input; of a network that recognised only this, no AUC would differ from 0.5):\n\n"
        + _table(("code", "nodules", "AUC"), codes)
    )


def _trust_details() -> str:
    f, limits = _figures("malignancy")["trust"], _card("malignancy")["settings"]["taught"]
    rows = [(f"left-out nodules, {name}", g["number"], "", f"{g['flagged']:.1%}") for name, g in f["held_out"].items()]
    rows += [(kind, g["number"], f"{g['auc']:.3f}", f"{g['flagged']:.1%}") for kind, g in f["kinds"].items()]
    errors = [
        (name, g["nodules"], *(f"{g[k]:.3f}" if k in g else "–" for k in ("auc", "brier", "ece_10_bins")))
        for name, g in f["error"].items()
    ]
    return (
        f"How far something is from the nodules that the estimate was taught on, by its features ({f['stands_on']}): "
        f"AUC of the distance against left-out nodules, and the share beyond the limit of {limits['distance']:.2f}, "
        "where the estimate is not to be relied on.\n\n"
        + _table(("shown", "number", "AUC", "beyond the limit"), rows)
        + "\n\nThe estimate for left-out nodules within the limit and beyond it, three readers or more:\n\n"
        + _table(("distance", "nodules", "AUC", "Brier score", "expected error"), errors)
    )


def _speed() -> str:
    return SPEED.read_text(encoding="utf-8").strip() if SPEED.exists() else ""


# ---- shared


def _json(path: Path) -> Figures:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {}


def _card(name: str) -> Figures:
    return _json(WEIGHTS / f"{name}.json")


def _figures(name: str) -> Figures:
    return dict(_card(name).get("figures", {}))


def _command(name: str) -> str:
    return str(_card(name).get("command", ""))


def _on(name: str) -> str:
    return f"{_figures(name)['stands_on']}; `{_command(name)}`"


def _interval(ends: Sequence[float]) -> str:
    low, high = ends
    return f"({low:.3f} to {high:.3f})"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key.replace('_', ' ')} {_value(item)}" for key, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_value, value))
    return str(value)


def _table(head: Sequence[str], rows: Iterable[Row]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


if __name__ == "__main__":
    main()
