"""What of a header may be written: words that scanners and protocols use, and nothing that says who was scanned.

A free text of a header (series description, kernel, manufacturer) can hold anybody's name: the patient's, the
referrer's, the hospital's, in any spelling. No search finds them all, so a text is written only where every word of it
is known here; else it is left out whole, and a warning says so. What is made of several parts (the warnings of the
reader) is also searched for the patient's name, id and birth date, in the spellings and orders that :class:`Identity`
knows.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from itertools import permutations

from nodulens.core.text import printable, without_file_names
from nodulens.core.volume import Patient, SliceRef, Source

# Letters that Unicode does not divide into a base and an accent.
_LETTERS = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe", "ı": "i", "ŋ": "n", "ħ": "h", "ŧ": "t"}
)
# ü, ue and u are one letter here, as are å, aa and a.
_DIGRAPHS = re.compile(r"(?<=[aou])e|(?<=a)a")
_WORD = re.compile(r"[^\W\d_]+|\d+")
_HUMP = re.compile(r"(?<=[^\W\d_A-Z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][^\W\d_A-Z])")
_MONTHS = (
    ("jan", "gen", "ene"), ("feb", "fev"), ("mar", "mrz", "maer"), ("apr", "avr", "abr"), ("may", "mai", "mag"),
    ("jun", "juin", "giu"), ("jul", "juil", "lug"), ("aug", "aou", "ago"), ("sep", "set"), ("oct", "okt", "ott"),
    ("nov",), ("dec", "dez", "dic"),
)  # fmt: skip
_UID = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*))+")

_MAKERS = re.compile(
    r"(ge|general electric|siemens|philips|toshiba|canon|hitachi|fujifilm|fuji|neusoft|united imaging|uih|shimadzu"
    r"|samsung|neurologica|picker|elscint|marconi|imatron|varian|accuray|elekta|mediso|minfound|minfoundmedical|anke"
    r"|planmed|carestream|arineta|sinovision|koning|nodulens)"
    r"( (medical|systems|system|healthineers|healthcare|health|imaging|company|corporation|corp|international|inc|ltd"
    r"|co|ag|gmbh|bv|and|research|phantom|electric|technologies|international))*"
)
_KERNELS = re.compile(
    r"standard|stnd|soft|detail|bone|boneplus|lung|edge|chest|ultra|body|sharp|smooth|normal|none|std|brain|hdlung|hdbone"
    r"|[a-z]{1,2}\d{2}[a-z]{0,2}|fc ?\d{2}(-?[a-z0-9])?|[a-l]|y[a-d]|[ue][a-c]|s[abc]|imr\d?|i?dose\d?"
    r"|asir-?v?\d{0,2}|ss\d{2}|ar\d{1,2}|\d{1,2}"
    r"|(b|l|h|body|lung)_(v?sharp|v?soft|smooth|standard)(_[a-d])?"
)
_PROTOCOL_WORDS = """
    abd abdo abdomen abdominal abdomino acq acquired adult and aorta aortic apex apices arterial ascending avec
    average avg ax axiaal axial axiale axials basal base bases biopsy bl body bolus bone bones br brain breast
    breath bronchi bronchial bronchus calcium cap cardiac chest cine civ cm combi complete con cont contrast
    contraste contrasto control cor coro coronal coronale ct cta ctlung ctpa cut cuts data deep default delayed
    dense detail diag diagnostic dicom dl dose double dual early ecg edge emphysema empty enhanced exam exp
    expir expiration expiratory expiry exspiration extended feet fine first follow followup for fov fu full
    gated gating ge guided haste hd head heart held helical helix high hold hr hrct hu i ild image images in ins
    insp inspir inspiration inspiratory interface intermediate interval iv ivc k kernel kontrast kv kvp large
    last lat late lateral ld ldct le left level limited liver lobe lobes loc localizer long low lower ls lung
    lunge lungen lungenfenster lungfenster lunglow lungs ma mas med median mediastinal mediastino mediastinum
    medium mid minip mip mit mittel mm mono monoenergetic mpr multi multiphase nativ native nc neck new no
    nodule nodules non noncontrast none normal oblique of ohne one only opt oral original overview p parenchym
    parenchyma part pe pelvis petct phantom phase pitch plain pleura plus polmonare polmone poly post pre
    primary prone prospective protocol pulm pulmo pulmon pulmonaire pulmonary quick rec recon reconstruction
    reformat reformatted res research retro right rl routine rs s sag sagital sagittal sagittale sans scan scout
    screen screening sd sec second segment senza sequence serie series sharp short single slice slices slim
    small smooth soft spi spine spiral spirale st staging standard std step sternum study sub superior supine
    swi t table tap test the thick thin third thk thor thoracic thoraco thoracoabdominal thorakal thorax tissue
    to top topo topogram torace torax total trachea tracheal trauma trial two ultra ultralow unenhanced upper
    vein venous very vol volume vs w weichteil weichteile width window with without wl ww x y z zoom
"""
# PS3.3, C.7.3.1.1.1, also those that are retired.
_MODALITY_NAMES = """
    ANN AR ASMT AU BDUS BI BMD CF CP CR CS CT CTPROTOCOL DD DF DG DM DMS DOC DS DX EC ECG EEG EMG EOG EPS ES FA FID FS
    GM HC HD IO IOL IVOCT IVUS KER KO LEN LP LS M3D MA MG MR MS NM OAM OCT OP OPM OPR OPT OPTBSV OPTENF OPV OSS OT
    PA PLAN POS PR PT PX REG RESP RF RG RTDOSE RTIMAGE RTINTENT RTPLAN RTRAD RTRECORD RTSEGANN RTSTRUCT RWV SEG SM SMR
    SR SRF ST STAIN TEXTUREMAP TG US VA VF XA XAPROTOCOL XC
"""
_MODALITIES = frozenset(_MODALITY_NAMES.split())
_QUANTITIES = ("OD", "HU", "US", "MGML", "Z_EFF", "ED", "EDW", "HU_MOD", "PCT")
_PROTOCOL = frozenset(_PROTOCOL_WORDS.split())
_UNIT_NAMES = "mm cm kv kvp ma mas s sec msec hu pct sd fov ml mgy kev ms iter x"
_UNITS = frozenset(_UNIT_NAMES.split())
_SHORT_NUMBER = re.compile(r"\d{1,2}([.,]\d{1,4})?")
_TOKEN = re.compile(r"\d+(?:[.,]\d+)?|[^\W\d_]+|_|[^\w\s]")
_MARKS = "+-/.,:;()%*&#_"
_MOST_NUMBERS = 3


@dataclass(frozen=True)
class Identity:
    """Who was scanned, as spelling has no part in it.

    Attributes:
        words: parts of the name, two letters or more, folded.
        ids: the patient's id, letters and digits alone, and each five digits or more in a row of it.
        dates: digits of the birth date in every usual order.
    """

    words: frozenset[str]
    ids: frozenset[str]
    dates: frozenset[str]

    @classmethod
    def of(cls, patient: Patient | None) -> Identity:
        """The identity of a patient; of None one that nothing holds."""
        if patient is None:
            return cls(frozenset(), frozenset(), frozenset())
        words = frozenset(word for word in _words(patient.name) if len(word) > 1 and not word.isdigit())
        number = "".join(_words(patient.patient_id))
        ids = {one for one in (number, *(run for run in re.findall(r"\d+", number) if len(run) > 4)) if len(one) > 1}
        return cls(words, frozenset(ids), _dates(patient.birth_date))

    def occurs_in(self, text: str, *, common: Collection[str] = ()) -> bool:
        """Whether a text holds a part of the name, the id or the birth date.

        Case, accents, transliteration (ü, ue, u), order and separators make no difference. Parts of
        a name of two or three letters count as whole words alone, as does an id of two or three characters.

        Args:
            common: words that identify no person, although some names contain them.
        """
        found = list(_words(text))
        joined = "".join(found)
        names = any(word in found or (len(word) > 3 and word in joined) for word in self.words.difference(common))
        ids = any(number in found or (len(number) > 3 and number in joined) for number in self.ids)
        return names or ids or any(date in run for run in _digits(text) for date in self.dates)


def released(source: Source) -> Source:
    """What may be written of where a volume came from: no patient, and free texts only where every word is known.

    Args:
        source: as the reader filled it.

    Returns:
        The same with each text that might name somebody left out (a description and a manufacturer are empty then, a
        kernel and a UID None), and a warning that says which. The patient is None.
    """
    identity = Identity.of(source.patient)

    def may(text: str, known: bool) -> bool:
        return known and not identity.occurs_in(text)

    description = may(source.description, is_protocol(source.description))
    manufacturer = may(source.manufacturer, is_manufacturer(source.manufacturer))
    kernel = source.kernel is None or may(source.kernel, is_kernel(source.kernel))
    series, study, frame = (
        uid if uid is None or _is_anonymous_uid(uid, identity) else None
        for uid in (source.series_uid, source.study_uid, source.frame_of_reference_uid)
    )
    slices = tuple(
        one if _is_anonymous_uid(one.sop_instance_uid, identity) else SliceRef("", one.instance_number)
        for one in source.slices
    )
    names = [
        name
        for name, kept in (
            ("series description", description or not source.description),
            ("manufacturer", manufacturer or not source.manufacturer),
            ("kernel", kernel),
            ("series UID", series == source.series_uid),
            ("SOP instance UIDs", all(one.sop_instance_uid for one in slices)),
        )
        if not kept
    ]
    remarks = [printable(without_file_names(text)) for text in source.warnings]
    if series is None and source.series_uid:
        remarks = [text.replace(printable(source.series_uid), "…") for text in remarks]
    warnings = [text for text in remarks if not identity.occurs_in(text, common=_PROTOCOL)]
    hidden = len(source.warnings) - len(warnings)
    if hidden:
        counted = "remarks" if hidden > 1 else "remark"
        warnings.append(f"{hidden} {counted} of the reader left out: what stands there may say who was scanned.")
    if names:
        warnings.append(f"Left out, for what stands there may say who was scanned: {', '.join(names)}.")
    return replace(
        source,
        series_uid=series,
        study_uid=study,
        frame_of_reference_uid=frame,
        description=source.description if description else "",
        manufacturer=source.manufacturer if manufacturer else "",
        kernel=source.kernel if kernel else None,
        slices=slices,
        patient=None,
        study=None,
        warnings=tuple(warnings),
    )


def is_protocol(text: str) -> bool:
    """Whether a description holds nothing but words of protocols, kernels, makers, and the numbers of a protocol.

    A number is a protocol's where it has two digits at most before its point, or a unit. Three numbers in a row that
    could be a date, and more than three numbers without a unit, are not.
    """
    tokens = _TOKEN.findall(unicodedata.normalize("NFKC", text).lower())
    bare = 0
    for i, token in enumerate(tokens):
        following = tokens[i + 1] if i + 1 < len(tokens) else ""
        if token[0].isdigit():
            measured = following in _UNITS or following == "%"
            bare += not measured
            if not (_SHORT_NUMBER.fullmatch(token) or (measured and len(token) < 5)):
                return False
        elif token[0].isalpha():
            whole = token + following if following.isdigit() else token
            if not (_fold(token) in _PROTOCOL or token in _UNITS or is_kernel(token) or is_kernel(whole)):
                return False
        elif token not in _MARKS:
            return False
    return bare <= _MOST_NUMBERS and not re.search(r"\d+\s*[-./_:]\s*\d+\s*[-./_:]\s*\d+", text)


def is_kernel(text: str) -> bool:
    """Whether a text is the name of a reconstruction kernel, or of several separated by slashes."""
    parts = [part.strip().lower() for part in re.split(r"[/\\]", text)]
    return all(_KERNELS.fullmatch(part) for part in parts)


def shown_modality(text: str) -> str:
    """A modality that DICOM defines; "unknown" for any other text."""
    return text if text in _MODALITIES else "unknown"


def shown_quantity(text: str) -> str:
    """A rescale type that DICOM defines (PS3.3, C.11.1.1.2); "another quantity" for what is none."""
    return text if text in _QUANTITIES else "another quantity"


def is_manufacturer(text: str) -> bool:
    """Whether a text is a known maker of scanners or of software."""
    return bool(_MAKERS.fullmatch(" ".join(re.findall(r"[a-z]+", text.lower())))) and text.isprintable()


def _is_anonymous_uid(uid: str, identity: Identity) -> bool:
    """Whether a UID is one, and none of its parts is the patient's id or birth date."""
    parts = uid.split(".")
    known = {*identity.ids, *(date for date in identity.dates if len(date) == 8)}
    return len(uid) <= 64 and bool(_UID.fullmatch(uid)) and not any(len(p) > 5 and p in known for p in parts)


def _fold(text: str) -> str:
    """Lower case without accents, ü, ue and u as one letter."""
    plain = _bare(text).translate(_LETTERS)
    short = _DIGRAPHS.sub("", plain)
    return short if len(short) > 2 else plain  # Doe is not Do


def _bare(text: str) -> str:
    """Lower case without accents, wide forms as plain ones."""
    return "".join(c for c in unicodedata.normalize("NFKD", text).casefold() if not unicodedata.combining(c))


def _words(text: str) -> Iterator[str]:
    """Runs of letters and digits, folded; also the words of «JaneDoe»."""
    for word in _WORD.findall(unicodedata.normalize("NFKC", text)):
        humps = [] if word.isupper() else _HUMP.split(word)
        yield from map(_fold, humps if len(humps) > 1 else [word])


def _dates(birth: str) -> frozenset[str]:
    """The digits of a date in every order of year, month and day, with four and two digits of the year."""
    digits = "".join(c for c in birth if c.isdigit())
    if len(digits) != 8 or not digits.isascii():
        return frozenset()
    year, month, day = digits[:4], digits[4:6], digits[6:]
    orders = (order for long in (year, year[2:]) for order in permutations((long, month, day)))
    return frozenset("".join(order) for order in orders)


def _digits(text: str) -> Iterator[str]:
    """Runs of digits of a text, across the separators of dates; names of months are numbers."""
    plain = _bare(text)
    for number, names in enumerate(_MONTHS, start=1):
        plain = re.sub(rf"(?<![^\W\d_])({'|'.join(names)})[^\W\d_]*", f" {number:02d} ", plain)
    for run in re.findall(r"\d+(?:[\s\-./_,:]{1,3}\d+)*", plain):
        yield "".join(group.zfill(2) for group in re.findall(r"\d+", run))
