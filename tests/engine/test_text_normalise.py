"""The normaliser: written things are put into words as people say them, everything else stays as it is."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.text import Normaliser, chunks
from engine.text.numerals import cardinal, ordinal, roman, year
from tests.engine import spoken as spoken_texts

SPOKEN = {
    "numbers": [
        ("1,234,567 people", "one million two hundred and thirty-four thousand five hundred and sixty-seven people"),
        ("pi is 3.14 and .5", "pi is three point one four and point five"),
        ("it fell to -5 today", "it fell to minus five today"),
        ("the 1st, 22nd and 100th", "the first, twenty-second and one hundredth"),
        ("1/2, 3/4 and 2 1/2 cups", "one half, three quarters and two and a half cups"),
        ("½ a cup, 2½ cups", "one half a cup, two and a half cups"),
        ("open 24/7", "open twenty-four seven"),
        ("pages 10–20 or 3-5", "pages ten to twenty or three to five"),
        ("a 50-50 chance, dial 911", "a fifty fifty chance, dial nine one one"),
        ("x² and 10⁻³ and H₂O", "x squared and ten to the power of minus three and H two O"),
        ("5% or 5-10%", "five percent or five to ten percent"),
        ("code 007, order 1234567890", "code zero zero seven, order one two three four five six seven eight nine zero"),
        ("a ratio of 16:9 or 2:1", "a ratio of sixteen to nine or two to one"),
        ("MP3, H2O, 4K, GPT-4, A380", "MP three, H two O, four K, GPT four, A three eight zero"),
        ("version 2.0.1 and v3", "version two point zero point one and version three"),
        ("at 10.16.0.1 today", "at ten dot sixteen dot zero dot one today"),
        ("#1 of 3", "number one of three"),
        ("1920x1080 is 10x more", "one thousand nine hundred and twenty by one thousand eighty is ten times more"),
        ("Henry VIII, World War II, Chapter IV", "Henry the eighth, World War two, Chapter four"),
        ("Part I liked, and I said so", "Part I liked, and I said so"),
    ],
    "years": [
        ("in 1999 and 2026", "in nineteen ninety-nine and twenty twenty-six"),
        ("in 1805, 1900, 2000, 2005", "in eighteen oh five, nineteen hundred, two thousand, two thousand five"),
        ("1800 people", "one thousand eight hundred people"),
        ("the 1990s, the '80s and the 60s", "the nineteen nineties, the eighties and the sixties"),
        ("from 1914-18, 1990–1999", "from nineteen fourteen to eighteen, nineteen ninety to nineteen ninety-nine"),
    ],
    "currency": [
        ("$5.20 and $1", "five dollars and twenty cents and one dollar"),
        ("£1.5bn, EUR 3m, $20 million", "one point five billion pounds, three million euros, twenty million dollars"),
        ("5,50 € or 1.000,00 €", "five euros and fifty cents or one thousand euros"),
        ("20 €, 50¢, $0.99", "twenty euros, fifty cents, ninety-nine cents"),
        ("-$5, US$20, $1,034.56", "minus five dollars, twenty US dollars, one thousand thirty-four dollars and "
         "fifty-six cents"),
        ("$5-10 or $3/month", "five to ten dollars or three dollars per month"),
    ],
    "dates": [
        ("on 2026-11-22.", "on November twenty-second, twenty twenty-six."),
        ("on 11/22/2026 or 21/11/2026", "on November twenty-second, twenty twenty-six or November twenty-first, "
         "twenty twenty-six"),
        ("Nov 22nd, Nov. 5, 2026", "November twenty-second, November fifth, twenty twenty-six"),
        ("the 5th of May, 22 November 2026", "the fifth of May, the twenty-second of November twenty twenty-six"),
        ("in March 2026 and in Sept. it rained", "in March twenty twenty-six and in September it rained"),
        ("on 13/13/2026", "on thirteen slash thirteen slash two thousand twenty-six"),
    ],
    "times": [
        ("at 3:05pm or 14:30", "at three oh five P M or fourteen thirty"),
        ("9:00, 17:00, 00:00", "nine o'clock, seventeen hundred, midnight"),
        ("3pm, 3-5 PM, 10 a.m. sharp", "three P M, three to five P M, ten A M sharp"),
        ("until 5 p.m. Then we left.", "until five P M. Then we left."),
        ("9:00-17:30", "nine o'clock to seventeen thirty"),
        ("2026-11-22T14:30:00Z", "November twenty-second, twenty twenty-six, fourteen thirty"),
    ],
    "units": [
        ("5 km/h and 3GB", "five kilometers per hour and three gigabytes"),
        ("20°C to -5 °F", "twenty degrees Celsius to minus five degrees Fahrenheit"),
        ("1 km, 1.5 kg, 6 ft. tall", "one kilometer, one point five kilograms, six feet tall"),
        ("a 5-km run at 45°", "a five kilometer run at forty-five degrees"),
        ("100 m² and 5'10\" tall", "one hundred square meters and five feet ten tall"),
        ("500 sq ft and 2 cu. m", "five hundred square feet and two cubic meters"),
        ("5 A grades, 3 s", "five A grades, three s"),
    ],
    "addresses": [
        ("mail bob.smith@example.co.uk now", "mail bob dot smith at example dot co dot U K now"),
        ("see https://x.org/a_b/c-d?q=1#z.", "see x dot org slash a underscore b slash c dash d."),
        ("(www.example.com)", "(example dot com)"),
        ("main.py on example.com/docs", "main dot P Y on example dot com slash docs"),
        ("ring 020 7946 0958", "ring zero two zero, seven nine four six, zero nine five eight"),
        ("https://x.org/a_(b).", "x dot org slash a underscore b."),
        ("call 555-0142 now", "call five five five, zero one four two now"),
        ("call (555) 123-4567 or +44 20 7946 0958", "call five five five, one two three, four five six seven or plus "
         "four four, two zero, seven nine four six, zero nine five eight"),
    ],
    "abbreviations": [
        ("Dr. Lee, Mrs. Fox, Prof. Ray", "Doctor Lee, Missus Fox, Professor Ray"),
        ("St. Mary's on Main St. and Elm Dr. Then", "Saint Mary's on Main Street and Elm Drive. Then"),
        ("fruit, e.g. pears, i.e. sweet ones, etc.", "fruit, for example pears, that is sweet ones, et cetera."),
        ("No. 5, Fig. 3, pp. 3-5", "Number five, Figure three, pages three to five"),
        ("I said no. 5 people left.", "I said no. five people left."),
        ("the U.S. economy. In the U.S. Then", "the U S economy. In the U S. Then"),
        ("J. R. R. Tolkien and John F. Kennedy", "J R R Tolkien and John F Kennedy"),
        ("I got an A. Then we left.", "I got an A. Then we left."),
        ("cats vs. dogs, w/ milk", "cats versus dogs, with milk"),
        ("Mr. & Mrs. Fox", "Mister and Missus Fox"),
        ("Vitamin C. Section V. 5 P.M. EST", "Vitamin C. Section five. five P M EST"),
    ],
    "symbols": [
        ("R&D at AT&T", "R and D at AT and T"),
        ("2 + 2 = 4, 3 * 4, a < b", "two plus two equals four, three times four, a is less than b"),
        ("<5, >10, ~10", "less than five, more than ten, about ten"),
        ("@anna, #fun, A -> B, and/or", "at anna, hashtag fun, A to B, and or"),
        ("C++ and C#", "C plus plus and C sharp"),
    ],
    "markdown": [
        ("# Title\n\nSome *soft* and **loud** text.", "Title\n\nSome soft and loud text."),
        ("- one\n- two", "one.\ntwo."),
        ("a [link](https://x.org/y) and ![a cat](c.png)", "a link and a cat"),
        ("| a | b |\n|---|---|\n| c | d |", "a, b.\nc, d."),
        ("```python\nx\n```\n\n`y` ~~z~~", "x\n\ny z"),
        ("> quoted\n\n---\n\nend", "quoted\n\nend"),
        ("[Anna]: Hello.", "[Anna]: Hello."),
        ("Tom &amp; Ann &lt;custom_token_3&gt; &#x41;", "Tom and Ann A"),
    ],
    "emoji": [
        ("Hi 😀👍🏽 there ❤️", "Hi there"),
        ("🇩🇪 and 👩‍👩‍👧 :-) ok", "and ok"),
        ("3️⃣ cats", "three cats"),
    ],
    "tags": [
        ("<laugh> Ha <b>ha</b> <foo>no</foo> <sigh>", "<laugh> Ha ha no <sigh>"),
        ("<speak>Hi <break time=\"1s\"/> you</speak>", "Hi you"),
        ("<p>One.</p><p>Two.</p>", "One.\n\n\n\nTwo."),
        ("if x <y and z> w", "if x <y and z> w"),
        ("<LAUGH>", "<laugh>"),
    ],
}  # fmt: skip
TABLE = [pytest.param(*pair, id=f"{kind}-{i}") for kind, pairs in SPOKEN.items() for i, pair in enumerate(pairs)]

PLAIN = [
    "The rain had stopped by the time we reached the harbour, and the boats were rocking gently.",
    '"Why?" he asked. "I don\'t know," she said — and that was that... or so they thought!',
    "Anne-Marie O'Neill's mother-in-law (a well-known pianist) lives in Stratford-upon-Avon.",
    "<laugh> That is <chuckle> so <sigh> funny. <gasp> <cough> <groan> <yawn> <sniffle>",
    "He left; she stayed: nobody knew why. What?! No way!!!",
    "John III and I went to NASA with the FBI, and may the best one win in May.",
    "這是一個句子，不用改。",
    "Это предложение на русском языке.",
    "Ich habe 3 Katzen und 20 € für das Haus, und die sind nicht da.",
    "Elle a 2 chats et le chien est dans la maison avec les 5 enfants.",
    "El 22/11/2026 es una fecha que no se dice en inglés, pero los 3 la leen.",
    "यह पहला वाक्य है। 5 लोग।",
]

HOSTILE = [
    *("(" * 4096, "1," * 2048, "a@" * 2048, "1" * 4096, "1 " * 2048, "$1" * 2048, "[" * 4096, "![[" * 1365),
    *(
        "*a " * 1365,
        "<a b=c " * 585,
        "." * 4096,
        "a." * 2048,
        "http://" * 585,
        "www.a." * 682,
        "1-" * 2048,
        "1/" * 2048,
    ),
    *(
        "1:1 " * 1024,
        "&#1;" * 1024,
        "|a" * 2048,
        "May 1 " * 682,
        "+1 " * 1365,
        "\n" * 4096,
        " " * 4095 + "a",
        "-" * 4096,
    ),
    *("<|" * 2048, "<custom_token_" * 292, "é" * 4096, "😀" * 4096, "1.2." * 1024, "1" + " " * 4000 + "x"),
    *("`a" * 2048, "[a" * 2048),
    *(
        "$a_" * 1365,
        "a^" * 2048,
        ">1\n" * 1365,
        "#1" * 2048,
        "$1.00-" * 682,
        "1 000 " * 682,
        "1/2 " * 1024,
        '5"' * 2048,
    ),
    *("5h 5m " * 682, "Mon-" * 1024, "press * " * 512, "1234 " * 819, "order #A" * 512, "a-1-" * 1024, "la el " * 682),
    *(
        "text a to " * 409,
        "May 1 - " * 512,
        "score a a a " * 341,
        "1e5" * 1365,
        "BP " * 1365,
        "[1]" * 1365,
        "a/sec" * 819,
    ),
    *("a.b@c." * 682, "0" * 4095 + "a", "5'" * 2048, "$1-" * 1365, "(555) " * 682, "12:30-" * 682, "the 80" * 682),
    *("!" * 4095 + "a", "?!" * 2047 + "a", "…" * 4095 + "a"),
]


@pytest.fixture(scope="module")
def normalise() -> Normaliser:
    """With every switch on."""
    return Normaliser()


@pytest.mark.parametrize(("written", "spoken"), [*TABLE, *spoken_texts.TABLE])
def test_what_is_written_is_spoken(normalise: Normaliser, written: str, spoken: str) -> None:
    assert normalise(written) == spoken


@pytest.mark.parametrize(("written", "spoken"), [*TABLE, *spoken_texts.TABLE])
def test_what_is_spoken_stays(normalise: Normaliser, written: str, spoken: str) -> None:
    assert written
    assert normalise(spoken) == spoken


@pytest.mark.parametrize("text", [*PLAIN, *spoken_texts.PLAIN])
def test_plain_prose_and_other_languages_stay(normalise: Normaliser, text: str) -> None:
    assert normalise(text) == text


@pytest.mark.parametrize("text", ["Dr. Lee paid $5 😀 for **2** cats.", "<foo> &amp; https://x.org", "a\n\n- b"])
def test_switched_off_it_changes_nothing(text: str) -> None:
    assert Normaliser.off()(text) == text


@pytest.mark.parametrize(
    ("switch", "text"),
    [
        ("markdown", "**loud**"),
        ("tags", "<foo>"),
        ("emoji", "😀"),
        ("emails", "a@b.com"),
        ("urls", "x.org"),
        ("phones", "555-0142"),
        ("dates", "Nov. 5"),
        ("times", "3:05pm"),
        ("currency", "$5"),
        ("units", "5 km"),
        ("abbreviations", "Dr. Lee"),
        ("symbols", "R&D"),
        ("numbers", "5"),
    ],
)
def test_each_switch_rules_its_own_kind(switch: str, text: str) -> None:
    off = Normaliser(**{**dict.fromkeys(Normaliser.__dataclass_fields__, False), switch: True})
    assert off(f"so {text} it is") != f"so {text} it is"
    everything_else = Normaliser(
        **{**dict.fromkeys(Normaliser.__dataclass_fields__, False), "emoji": switch != "emoji"}
    )
    assert everything_else(f"so {text} it is") == f"so {text} it is"


@given(st.text(max_size=400))
def test_no_text_breaks_it(text: str) -> None:
    Normaliser()(text)


WORDS = st.sampled_from([
    *("$5.20", "1999", "Dr.", "Lee", "e.g.", "3:05pm", "11/22/2026", "5", "km/h", "20°C", "a@b.com"),
    *("https://x.org/a", "R&D", "**x**", "-", "(", ")", '"', "and", "the", "U.S.", "No.", "1/2", "10-20%"),
    *("VIII", "<laugh>", "#1"),
    *("=", "~"),
])  # fmt: skip


@given(st.lists(WORDS, max_size=12))
def test_it_leaves_no_digit_in_english(words: list[str]) -> None:
    spoken = Normaliser()("the " + " ".join(words))
    assert not any(character.isdecimal() for character in spoken), spoken


@given(st.lists(WORDS, max_size=8))
def test_twice_is_once(words: list[str]) -> None:
    # A single sign between two words can be read in two ways; words are words.
    spoken = Normaliser()("the " + " ".join(word for word in words if word not in "-~=()"))
    assert Normaliser()(spoken) == spoken


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: repr(text[:8]))
def test_hostile_text_takes_no_more_than_its_share(normalise: Normaliser, text: str) -> None:
    """Processor time against that of prose, so that a busy machine changes nothing; catastrophes are 1,000 times it."""
    prose = "The bill of $5.20 came on Nov 5 at 3pm. " * 103
    assert _seconds(normalise, text) < 60 * max(_seconds(normalise, prose), 0.002)


def _seconds(normalise: Normaliser, text: str) -> float:
    began = time.process_time()
    chunks(normalise(text))
    return time.process_time() - began


# ---- number words


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zero"),
        (13, "thirteen"),
        (40, "forty"),
        (99, "ninety-nine"),
        (100, "one hundred"),
        (101, "one hundred and one"),
        (1000, "one thousand"),
        (1005, "one thousand five"),
        (10**6, "one million"),
        (10**15 - 1, "nine hundred and ninety-nine trillion nine hundred and ninety-nine billion nine hundred and "
         "ninety-nine million nine hundred and ninety-nine thousand nine hundred and ninety-nine"),
    ],
)  # fmt: skip
def test_cardinals(number: int, words: str) -> None:
    assert cardinal(number) == words


@given(st.integers(0, 10**15 - 1), st.integers(0, 10**15 - 1))
def test_no_two_numbers_share_a_name(one: int, other: int) -> None:
    assert (cardinal(one) == cardinal(other)) == (one == other)
    assert (ordinal(one) == ordinal(other)) == (one == other)


def test_ordinals() -> None:
    numbers = (1, 2, 3, 5, 8, 9, 12, 20, 21, 101, 1000)
    assert ", ".join(map(ordinal, numbers)) == (
        "first, second, third, fifth, eighth, ninth, twelfth, twentieth, twenty-first, one hundred and first, "
        "one thousandth"
    )


def test_years_and_roman_numbers() -> None:
    assert [year(number) for number in (1066, 1900, 2000, 2019)] == [
        *("ten sixty-six", "nineteen hundred", "two thousand", "twenty nineteen")
    ]
    assert [roman(letters) for letters in ("I", "IV", "IX", "XIV", "XL", "XC", "XXXVIII")] == [1, 4, 9, 14, 40, 90, 38]
