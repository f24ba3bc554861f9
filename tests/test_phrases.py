"""What radiologists type, in three languages: answered right or refused by the right word, and never by a guess."""

from __future__ import annotations

import string
from functools import partial
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from made_findings import Phrase, nodules, phrases, tracked
from nodulens.errors import BadOption, BadPrompt, NotFound
from nodulens.query import Query, load_lexicons, parse, resolve
from nodulens.query.lexicon import Lexicon, fold, pieces_of
from nodulens.query.meanings import AFTER, NUMBERS, ORDINALS, PROPERTIES, TERMINALS
from nodulens.query.syntax import GRAMMAR

LEXICONS = {lexicon.language: lexicon for lexicon in load_lexicons()}
ANSWERED = [phrase for phrase in phrases() if phrase.ids is not None]


def name(phrase: Phrase) -> str:
    return f"{phrase.language}: {phrase.text}"


def asked(phrase: Phrase) -> list[int]:
    if phrase.compared:
        return [n.id for n in resolve(phrase.text, tracked(), compared=True).nodules]
    return [n.id for n in resolve(phrase.text, nodules()).nodules]


@pytest.mark.parametrize("phrase", phrases(), ids=name)
def test_a_phrase_is_answered_right_or_refused_by_its_word(phrase: Phrase) -> None:
    if phrase.refused is None:
        assert asked(phrase) == phrase.ids
        return
    with pytest.raises(BadPrompt) as error:
        asked(phrase)
    said, _, known = str(error.value).partition(f" (in {phrase.text!r}). ")
    assert phrase.refused in said.lower()
    assert known.startswith("Known are: ")


def test_there_are_enough_phrases() -> None:
    assert len(phrases("en")) >= 120 and len(phrases("de")) >= 40 and len(phrases("fr")) >= 40
    assert sum(phrase.ids is not None for phrase in phrases("en")) >= 100
    found = {number for phrase in ANSWERED for number in phrase.ids or ()}
    assert found == {nodule.id for nodule in nodules()}


@pytest.mark.parametrize("phrase", ANSWERED, ids=name)
def test_case_spaces_punctuation_and_accents_do_not_matter(phrase: Phrase) -> None:
    read = partial(parse, compared=phrase.compared)
    meant = read(phrase.text, [LEXICONS[phrase.language]])
    for changed in (
        phrase.text.upper(),
        phrase.text.title(),
        f"  {phrase.text.replace(' ', '   ')}\t ?!",
        f"“{phrase.text}”.",
        phrase.text.translate(str.maketrans("éèêàûäöü", "eeeauaou")),
        phrase.text.replace("-", "‐") if not any(sign.isdigit() for sign in phrase.text) else phrase.text,
    ):
        assert read(changed, [LEXICONS[phrase.language]]) == meant, changed
    assert read(phrase.text) == meant, "and the language is recognised"


@given(
    phrase=st.sampled_from(phrases()),
    word=st.one_of(
        st.text(alphabet=string.ascii_lowercase, min_size=3, max_size=12),
        st.sampled_from(["heart", "kidney", "maybe", "quelque", "vielleicht", "5x", "#", "²", "½"]),
    ),
    data=st.data(),
)
@settings(max_examples=300, deadline=None)
def test_no_phrase_with_an_unknown_word_is_answered(phrase: Phrase, word: str, data: st.DataObject) -> None:
    words = phrase.text.split()
    at = data.draw(st.integers(0, len(words)))
    text = " ".join([*words[:at], word, *words[at:]])
    if any(not lexicon.words(text)[1] for lexicon in LEXICONS.values()):
        return  # a word after all, or a letter that one ends in
    with pytest.raises(BadPrompt):
        parse(text, compared=phrase.compared)


@given(words=st.lists(st.sampled_from(sorted(LEXICONS["en"].spellings.values())), min_size=1, max_size=8))
@settings(max_examples=500, deadline=None)
def test_any_row_of_known_words_is_a_query_or_refused(words: list[str]) -> None:
    try:
        found = parse(" ".join(words), [LEXICONS["en"]])
    except BadPrompt as error:
        assert "Known are: largest" in str(error)
    else:
        assert isinstance(found, Query)


@pytest.mark.parametrize("language", LEXICONS)
def test_every_meaning_has_words_in_every_language(language: str) -> None:
    here = {meaning for row in LEXICONS[language].meanings.values() for meaning in row}
    named = {"RUL", "RML", "RLL", "LUL", "LLL"}
    english = {meaning for row in LEXICONS["en"].meanings.values() for meaning in row}
    made = {meaning for meaning in TERMINALS if meaning.endswith(AFTER)}  # of sides, by where they stand
    assert english >= TERMINALS.keys() - {"PLEURAL_TAG", "UNTIL"} - made if language == "en" else True
    missing = english - here - named
    assert not {meaning for meaning in missing if meaning not in NUMBERS and meaning not in ORDINALS} - {
        *("MOST_VOLUME", "LEAST_VOLUME", "IN_VOLUME", "TOP", "WITHIN", "SUBCENTIMETRE", "TH", "OPENER"),
        *("FROM", "TO", "NON"),
        *("LONG_AXIS", "SHORT_AXIS", "FATTY", "PLEURAL_TAG", "LOBE", "OF", "FROM_PLEURA", "PLEURA_DISTANCE"),
    }


def test_what_is_spelled_alike_means_the_same_in_every_language() -> None:
    """Or "ggo > 6 mm", whose words are of all three, is asked back about."""
    for one, other in combinations(LEXICONS.values(), 2):
        alike = one.meanings.keys() & other.meanings.keys()
        unlike = {" ".join(pieces) for pieces in alike if one.meanings[pieces] != other.meanings[pieces]}
        assert unlike <= {"a", "l", "spicules", "grosse", "ul"}, "other words go with these, but for UL"


def test_the_grammar_declares_what_meanings_are() -> None:
    lines = [line.split() for line in GRAMMAR.read_text("utf-8").splitlines()]
    declared = {word for line in lines if line[:1] == ["%declare"] for word in line[1:]}
    assert declared == {*TERMINALS.values(), "NUMBER", "COMMA"}


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("largest nodul", "'nodule'"),
        ("spicualted nodules", "'spiculated'"),
        ("nodules in the right uper lobe", "'upper'"),
        ("groud-glass nodules", "'ground-glass'"),
        ("größter Milchglashered", "'Milchglasherd'"),
        ("le plus gros nodule subplerual", "'subpleural'"),
    ],
)
def test_a_typo_is_refused_with_what_may_be_meant(typed: str, meant: str) -> None:
    with pytest.raises(BadPrompt, match="did you mean") as error:
        parse(typed)
    assert meant in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("largest Herd", "'herd' (a word of German"),
        ("new nodules", "needs a comparison with a prior scan"),
        ("solid cavities", "'cavities' cannot be answered: the report does not say whether a nodule has a cavity"),
        ("all but masses", "understand 'but'"),
        ("all nodules, but over 8 mm", "understand 'but'"),
        ("nodules over 8 mm but solid", "understand 'solid'"),
        ("over 6 mm risk", "does not go with"),
        ("nodules over 8 mm since the last CT", "'since the last ct' goes with new"),
        ("nodules and masses", "'masses' after 'nodules'"),
        ("solid nodules and the largest", "'and' before 'largest'"),
        ("largest of the three solid nodules", "Of which three"),
        ("not calcified and subpleural", "two meanings"),
        ("right lung, upper lobe", "overlap has two meanings"),
        ("left nodules in the upper zone of the right lung", "No place in the lungs"),
        ("left nodules in the middle lobe", "No place in the lungs"),
        ("upper and lower right lobes", "'upper' on which side"),
        ("both nodules", "Which part is 'both'"),
        ("all nodules except masses and solid nodules", "in what is left out"),
        ("within 5 mm", "of the pleura"),
        ("> 1,000 mm3", "thousands have none"),
        ("Herde über 6.5 mm", "decimal sign in German is ','"),
        ("risk about 50 %", "sizes alone"),
        ("nodules at the top of the right lung", "understand 'of the' here"),
        ("Herde im LUL", "'lul' (a word of English"),
        ("GGN UL", "one thing in English and another in German"),
        ("risk < 1", "give a risk or a confidence in %"),
        ("solid component over 6 mm, under 10 mm", "'10 mm' of what"),
        ("nodules over 6 mm long axis over 4 mm", "Which of the two"),
        ("under 6 to 8 mm", "'under' in a range"),
        ("6 to over 8 mm", "'over' in a range"),
        ("lobes supérieur et inférieur droits", "'supérieur' on which side"),
    ],
)
def test_what_could_be_read_in_two_ways_is_refused(text: str, said: str) -> None:
    with pytest.raises(BadPrompt) as error:
        resolve(text, nodules())
    assert said in str(error.value)


def test_what_a_word_is_taken_for_is_said() -> None:
    assert "less than 10 mm from the pleura" in " ".join(resolve("subpleural nodules", nodules()).notes)
    assert "7.5 to 8.5 mm" in " ".join(resolve("8 mm nodule", nodules()).notes)
    assert "6.5 to 9.5 mm" in " ".join(resolve("about 8 mm", nodules()).notes)
    assert "no risk is known: nodule 9." in " ".join(resolve("suspicious nodules", nodules()).notes)
    assert "no risk is known: nodule 9." in " ".join(resolve("nodules except suspicious ones", nodules()).notes)
    assert "no rating of spiculation is known: nodules 2, 5" in " ".join(resolve("spiculated nodules", nodules()).notes)
    assert "hilum is estimated" in " ".join(resolve("central nodules", nodules()).notes)
    assert "from the hilum is not known: nodule 11." in " ".join(resolve("nodules not peripheral", nodules()).notes)
    assert "no other scan shows its place: nodule 6." in " ".join(
        resolve("stable nodules in the right lung", tracked(), compared=True).notes
    )
    assert "where: nodule 11." in " ".join(resolve("nodules not in the LUL", nodules()).notes)


def test_a_reason_is_replaced_by_one_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cavities are answered once the table of properties binds them."""
    known = PROPERTIES["SUBPLEURAL"]
    monkeypatch.setitem(PROPERTIES, "CAVITARY", known)  # type: ignore[arg-type]
    cavitary = resolve("cavitary nodules", nodules()).nodules
    assert cavitary == resolve("subpleural nodules", nodules()).nodules != ()


# ---- word files


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text, "utf-8")
    return path


def test_words_of_ones_own(tmp_path: Path) -> None:
    mine = written(tmp_path, 'language = "en"\n[words]\n"LARGEST NODULE" = ["whopper"]\n')
    lexicons = load_lexicons(files=[mine])
    assert [n.id for n in resolve("whopper in the right lung", nodules(), lexicons).nodules] == [3]
    with pytest.raises(BadPrompt, match="whopper"):
        parse("whopper")
    spanish = 'language = "es"\nname = "Spanish"\ndecimal = ","\nendings = ["o", "a", "os", "as"]\n[words]\n'
    mine = written(tmp_path, spanish + 'LARGEST = ["mayor"]\nNODULE = ["nódulo"]\nSOLID = ["sólid*"]\n')
    lexicons = load_lexicons(files=[mine])
    assert [n.id for n in resolve("mayor nodulo sólido", nodules(), lexicons).nodules] == [7]
    assert [lexicon.language for lexicon in load_lexicons("es", [mine])] == ["es"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            'language = "en"\n[words]\nLARGEST = ["smallest"]\n',
            "line 3: 'smallest' already means SMALLEST, not LARGEST",
        ),
        ('language = "en"\n[words]\nLARGST = ["hugest"]\n', "line 3: there is no meaning 'LARGST'; is LARGEST meant?"),
        ('language = "en"\n\n[words]\nSOLID = "dense"\n', "line 4: SOLID has no list of words"),
        ('language = "en"\n[words]\nSOLID = ["dens*"]\n', "line 3: 'dens*' has a star, and the file has no endings"),
        ('language = "xx"\n[words]\nSOLID = ["a"]\nPART_SOLID = ["b", "a"]\n', "line 4: 'a' already means SOLID"),
        ('language = "en"\ncolour = "red"\n[words]\n', "line 2: 'colour' does not belong here"),
        ('language = "en"\ndecimal = ","\n[words]\n', "line 2: the decimal sign"),
        ('language = "xx"\n[words]\nSOLID = ["8"]\n', "line 3: '8' is no word"),
        ("language = \n", "at line 1"),
        ('[words]\nSOLID = ["x"]\n', "lacks language"),
    ],
)
def test_a_bad_word_file_is_refused_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(BadOption) as error:
        load_lexicons(files=[written(tmp_path, text)])
    assert said in str(error.value) and "mine.toml" in str(error.value)


def test_what_is_no_language_and_no_file(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="there are en, de, fr"):
        load_lexicons("la")
    with pytest.raises(NotFound, match=r"none\.toml"):
        load_lexicons(files=[tmp_path / "none.toml"])


def test_a_text_that_two_languages_read_otherwise_is_refused() -> None:
    one = Lexicon("aa", "A", ".", {("dense",): ("SOLID",)}, {("dense",): "dense"})
    other = Lexicon("bb", "B", ".", {("dense",): ("CALCIFIED",)}, {("dense",): "dense"})
    with pytest.raises(BadPrompt, match="one thing in A and another in B"):
        parse("dense", [one, other])
    assert parse("dense", [one, one]) == parse("solid")


def test_pieces_and_folding() -> None:
    assert pieces_of("Mittel- oder Unterlappen, 5-8 mm.") == ["mittel", "oder", "unterlappen", ",", "5", "-", "8", "mm"]
    assert pieces_of("6-mm 2. d'au") == ["6", "mm", "2", ".", "d", "au"]
    assert [fold(word) for word in ("größter", "SUPÉRIEUR", "≤", "mm³")] == ["grosster", "superieur", "≤", "mm³"]
    assert pieces_of("≠ 6 mm") == ["≠", "6", "mm"] and fold("≠") == "≠"
