"""What people send to a voice: support scripts, news, recipes, medicine, sports, science, answers of chat models."""

from __future__ import annotations

import pytest

from engine.text import Normaliser

SPOKEN = {
    "codes": [
        ("Your PIN is 4821.", "Your PIN is four eight two one."),
        ("Your OTP is 583021. It expires.", "Your OTP is five eight three zero two one. It expires."),
        ("Your code is 482 913.", "Your code is four eight two, nine one three."),
        ("The code is 2000 lines long.", "The code is two thousand lines long."),
        ("Account ending in 4242", "Account ending in four two four two"),
        ("The serial no. is A-1. He said no. 5 left.", "The serial number is A one. He said no. five left."),
        ("Order #48291, order number 1500", "Order number four eight two nine one, order number one five zero zero"),
        ("My order of 1500 mugs", "My order of fifteen hundred mugs"),
        ("Ticket #TCK-00921, #COP26", "Ticket number TCK zero zero nine two one, hashtag COP twenty-six"),
        ("Beverly Hills, CA 90210", "Beverly Hills, CA nine zero two one zero"),
        ("Card 4111 1111 1111 1111", "Card four one one one, one one one one, one one one one, one one one one"),
        ("in 1990 2000 2010 2020", "in nineteen ninety two thousand twenty ten twenty twenty"),
        ("R2-D2, L4-L5, i7-12700K", "R two D two, L four L five, i seven one two seven zero zero K"),
        ("1080p in FY2024", "ten eighty p in FY twenty twenty-four"),
    ],
    "phones": [
        ("212 555 0147", "two one two, five five five, zero one four seven"),
        ("07700 900123", "zero seven seven zero zero, nine zero zero one two three"),
        ("Call 1-800-FLOWERS.", "Call one eight hundred FLOWERS."),
        ("Dial 411 or 911. Call 300 people.", "Dial four one one or nine one one. Call three hundred people."),
        ("a 911 call, a Porsche 911", "a nine one one call, a Porsche nine hundred and eleven"),
        ("Text HELP to 12345.", "Text HELP to one two three four five."),
        ("Press # to end, or * to repeat.", "Press pound to end, or star to repeat."),
        ("Press *69, then the # key.", "Press star sixty-nine, then the pound key."),
        ("the # of users is #1", "the number of users is number one"),
    ],
    "dates": [
        ("May 2 people come? May 5 of us?", "May two people come? May five of us?"),
        ("He came in May. 20 others followed on Nov. 5.", "He came in May. twenty others followed on November fifth."),
        ("In 1999 people danced; 10:30-11", "In nineteen ninety-nine people danced; ten thirty to eleven"),
        ("The 4th of July", "The fourth of July"),
        ("2024/01/15, 11-22-2026, 22-Nov-2026", "January fifteenth, twenty twenty-four, November twenty-second, twenty "
         "twenty-six, November twenty-second, twenty twenty-six"),
        ("until 12/31, 3/4 of it since 9/11", "until December thirty-first, three quarters of it since nine eleven"),
        ("Jan 15 – Feb 3", "January fifteenth to February third"),
        ("Mon-Fri 9am-5pm", "Monday to Friday nine A M to five P M"),
        ("Sun-dried, Sat-nav, Mon ami", "Sun-dried, Sat-nav, Mon ami"),
        ("In 1812, and in 1066; 1984 was good",
         "In eighteen twelve, and in ten sixty-six; nineteen eighty-four was good"),
        ("He scored 2011 points.", "He scored two thousand eleven points."),
        ("lows in the upper 40s, highs in the low 50s", "lows in the upper forties, highs in the low fifties"),
        ("The 60s; wait 30s", "The sixties; wait thirty seconds"),
    ],
    "times": [
        ("9 a.m.-5 p.m. daily", "nine A M to five P M daily"),
        ("at 9.30am, at 8 a.m. Monday", "at nine thirty A M, at eight A M Monday"),
        ("at 1730 hours; 0800 hours", "at seventeen thirty hours; zero eight hundred hours"),
        ("It took 1700 hours.", "It took one thousand seven hundred hours."),
        ("3h 20m, 5m 30s", "three hours twenty minutes, five minutes thirty seconds"),
        ("UTC+2", "UTC plus two"),
        ("a 10K in 44:02", "a ten K in forty-four oh two"),
    ],
    "money": [
        ("€1.234,56 or ₹1,50,000",
         "one thousand two hundred and thirty-four euros and fifty-six cents or one hundred and "
         "fifty thousand rupees"),
        ("$20M-$30M", "twenty million dollars to thirty million dollars"),
        ("$1.50-$2.00", "one dollar and fifty cents to two dollars"),
        ("NZ$20 or 5$ or <$5", "twenty New Zealand dollars or five dollars or less than five dollars"),
        ("a $5 bill, a $20-million house", "a five dollar bill, a twenty million dollar house"),
        ("$20/mo., $0.01/1K tokens", "twenty dollars per month, one cent per one K tokens"),
        ("+2.3% vs. -1%", "plus two point three percent versus minus one percent"),
    ],
    "measures": [
        ("1/2 lb, 1½ tsp. salt, 2 Tbsp. oil", "one half pound, one and a half teaspoons salt, two tablespoons oil"),
        ("a 12\" pizza, a 9\" x 13\" pan", "a twelve inch pizza, a nine by thirteen inch pan"),
        ("\"I was born in 1984\" and left", "\"I was born in nineteen eighty-four\" and left"),
        ("2 in. wide; 5 ft 10 in; 3 in high school", "two inches wide; five feet ten inches; three in high school"),
        ("9.8 m/s² and 9.8 m/s^2",
         "nine point eight meters per second squared and nine point eight meters per second squared"),
        ("a 5 km run, 5 km, a 90° angle", "a five kilometer run, five kilometers, a ninety degree angle"),
        ("Gate 23A, seat 12A, 12A", "Gate twenty-three A, seat twelve A, twelve amps"),
        ("BP 120/80, 120/80 mmHg",
         "BP one hundred and twenty over eighty, one hundred and twenty over eighty millimeters of "
         "mercury"),
        ("5 mg/dL, 1 mg/kg/day", "five milligrams per deciliter, one milligram per kilogram per day"),
        ("max 8/day, 100 tokens/sec", "max eight per day, one hundred tokens per sec"),
        ("10 μm, λ = 500 nm, CO₂", "ten micrometers, λ equals five hundred nanometers, CO two"),
        ("1 000 000 people", "one million people"),
        ("rated 4.5/5 stars, 10/10, 7/10 of it",
         "rated four point five out of five stars, ten out of ten, seven tenths of it"),
        ("5m users, 5m away, 1 gal. milk", "five million users, five meters away, one gallon milk"),
        ("the 49ers and 76ers", "the forty-niners and seventy-sixers"),
    ],
    "mathematics": [
        ("x^2 + y^n = 5", "x squared plus y to the power of n equals five"),
        (">90%, >=5, p<.05", "more than ninety percent, at least five, p is less than point zero five"),
        ("a == b, x != y", "a equals b, x is not equal to y"),
        ("> 90%", "ninety percent"),
        (">90%", "more than ninety percent"),
        ("2*3*4, 10 / 2 = 5", "two times three times four, ten divided by two equals five"),
        ("1.5e-5, n=50", "one point five times ten to the power of minus five, n equals fifty"),
        ("It is $E = mc^2$.", "It is E equals mc squared."),
    ],
    "names": [
        ("James V. Smith met Peter V. at noon", "James V Smith met Peter V. at noon"),
        ("George V, James I of England, World War I ended",
         "George the fifth, James the first of England, World War one ended"),
        ("Charles I know, chapter IV, type II", "Charles I know, chapter four, type two"),
        ("a V8 engine, v8, V1.5", "a V eight engine, version eight, version one point five"),
        ("This is Max. He is tall. Max. 5", "This is Max. He is tall. Maximum five"),
        ("Wait a min. Then go.", "Wait a min. Then go."),
        ("123 N. Main St., 12 W 34th St, Room 101",
         "one hundred and twenty-three North Main Street, twelve West thirty-fourth "
         "Street, Room one hundred and one"),
        ("Roe v. Wade; v. good", "Roe versus Wade; v. good"),
        ("cats, dogs, etc. Bob left, etc. and so on", "cats, dogs, et cetera. Bob left, et cetera and so on"),
        ("the IT dept. He left, e.g. this", "the IT department. He left, for example this"),
        ("Eq. (3), Op. 27, c. 1450", "Equation (three), Opus twenty-seven, circa fourteen fifty"),
        ("w/o it, w/ 2 of us", "without it, with two of us"),
        ("Edit /etc/x.conf", "Edit /etc x dot conf"),
        ("use --no-cache, wait -- what", "use --no-cache, wait — what"),
    ],
    "language": [
        ("Smith et al. won 3. Los Angeles 5, Las Vegas 6.", "Smith et al. won three. Los Angeles five, Las Vegas six."),
        ("Pour 5 ml. Come 5 times. Van Gogh sold 1.", "Pour five milliliters. Come five times. Van Gogh sold one."),
        ("1–2 tablets, 8 per day", "one to two tablets, eight per day"),
        ("Beyoncé's 7th album", "Beyoncé's seventh album"),
    ],
    "lists": [
        ("Buy:\n\n- 2 eggs\n- salt 🧂\n- Go!", "Buy:\n\ntwo eggs.\nsalt.\nGo!"),
        ("1) Open it\n2) Close it", "one. Open it.\ntwo. Close it."),
        ("It is so.[1][2] Is it?", "It is so. Is it?"),
        ("Rome 🇮🇹: what to see", "Rome: what to see"),
        ("**Prix :** 20 €, et c'est tout.", "Prix : 20 €, et c'est tout."),
        ("It's 3 a.m. <yawn> I sleep, etc. <sigh> I do.", "It's three A M. <yawn> I sleep, et cetera. <sigh> I do."),
    ],
}  # fmt: skip
TABLE = [pytest.param(*pair, id=f"{kind}-{i}") for kind, pairs in SPOKEN.items() for i, pair in enumerate(pairs)]

PLAIN = [
    "I am in. Are you in? May I? It is on. As a matter of fact, I am.",
    "No. he said, I will not. Dr. drive was its name. He sat. The sun set. Mon ami.",
    "Can I have an A? No, a B. Plan A. Then plan C. Mary I think is nice; Part I liked best.",
    "E. coli and C. difficile. T. rex was big. Who am I? It was him or I. I left.",
    "We saw it in the US, and it is for us. OK. ASAP, NASA, SAT and the URL of an FAQ.",
    "'Tis the season for rock 'n' roll, p's and q's, dos and don'ts, and the Oakland A's.",
    "Set $HOME and $PATH. Wait... what? ...and then he left. T-shirt, X-ray, e-mail, iPhone.",
    "Tengo 2 perros.",
    "J'ai 3 chiens.",
    "¡Feliz 2025!",
    "Frohes Neues Jahr 2025!",
    "Wie viel kostet 1 kg?",
    "Bonjour! 20 €",
    "El 50% de las personas",
    "C'est 5% de plus, l'eau aussi.",
    "Le 3 mai",
    "Abbiamo 5 minuti, alle 3.",
    "제 전화번호는 010-1234-5678입니다. 가격은 5,000원입니다.",
    "今天气温是 25°C，价格是 ¥100。",
    "आज तापमान 25°C है।",
]


@pytest.fixture(scope="module")
def normalise() -> Normaliser:
    """With every switch on."""
    return Normaliser()


@pytest.mark.parametrize(("written", "spoken"), TABLE)
def test_what_is_written_is_spoken(normalise: Normaliser, written: str, spoken: str) -> None:
    assert normalise(written) == spoken


@pytest.mark.parametrize(("written", "spoken"), TABLE)
def test_what_is_spoken_stays(normalise: Normaliser, written: str, spoken: str) -> None:
    assert written
    assert normalise(spoken) == spoken


@pytest.mark.parametrize("text", PLAIN)
def test_plain_prose_and_other_languages_stay(normalise: Normaliser, text: str) -> None:
    assert normalise(text) == text
