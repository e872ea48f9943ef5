"""One visit to the page: what a person does there, what they see, and all that the browser noticed."""

import io
from typing import Any
from urllib.parse import urlsplit

import av
from playwright.sync_api import Page, Response, expect

from tests.clients.lyre_process import eventually

PATIENCE_MS = 90_000
"""After which something that should happen soon counts as missing; no test measures time with it."""


LISTEN = """addEventListener("DOMContentLoaded", () => {
  window.sounds = [];
  const main = document.querySelector("main");
  new MutationObserver(() => sounds.push(main.dataset.sound)).observe(main, { attributeFilter: ["data-sound"] });
});"""


class Visit:
    """The page at `url`; `check()` says at the end whether it behaved."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        self.asked: list[str] = []
        self.speeches: list[Response] = []
        self.refusals = 0
        page.set_default_timeout(PATIENCE_MS)
        expect.set_options(timeout=PATIENCE_MS)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda message: self.complaints.append(f"{message.type}: {message.text}"))
        page.on("response", self._note)
        network = page.context.new_cdp_session(page)
        network.on("Network.requestWillBeSent", lambda event: self.asked.append(event["request"]["url"]))
        network.send("Network.enable")
        page.add_init_script(LISTEN)
        page.goto(url + "/")

    def wait_ready(self) -> "Visit":
        """Returns when it can speak."""
        expect(self.page.locator("#speak")).to_be_enabled()
        return self

    def say(self, text: str, audio_format: str = "mp3") -> None:
        """Type and press Ctrl+Enter."""
        self.page.locator(f"input[value={audio_format}]").check(force=True)
        self.page.locator("#text").fill(text)
        self.page.locator("#text").press("Control+Enter")

    def wait_phase(self, phase: str) -> None:
        """Returns when the request is so far."""
        self.page.locator(f"main[data-phase={phase}]").wait_for()

    def wait_sound(self, sound: str) -> None:
        """Returns when the loudspeaker is so far."""
        self.page.locator(f"main[data-sound={sound}]").wait_for()

    def forget_sounds(self) -> None:
        """Before what `wait_sounds` waits for."""
        self.page.evaluate("sounds.length = 0")

    def wait_sounds(self, *sounds: str) -> None:
        """Returns when the loudspeaker has gone through all of these, however quickly."""
        # Playwright's own wait is refused by the page's policy: it evaluates text there.
        assert eventually(lambda: self.page.evaluate("sounds.join()").endswith(",".join(sounds)))

    def wait_mark(self, name: str) -> dict[str, float]:
        """All marks, as soon as this one is among them."""
        marks = eventually(lambda: name in (found := self.marks()) and found)
        assert marks, f"no mark {name}"
        return marks

    def marks(self) -> dict[str, float]:
        """When what happened, by the page's own clock, in milliseconds."""
        script = "performance.getEntriesByType('mark').map(mark => [mark.name.slice(5), mark.startTime])"
        return dict(self.page.evaluate(script))

    def figure(self, name: str) -> str:
        """What one of the figures shows."""
        return self.page.locator(f"#{name}").inner_text()

    def shown_seconds(self) -> float:
        """The length of the speech as the clock shows it."""
        minutes, seconds = self.figure("duration").split(":")
        return int(minutes) * 60 + float(seconds)

    def download(self) -> tuple[str, bytes]:
        """Name and bytes of the file that the link saves."""
        with self.page.expect_download() as saved:
            self.page.locator("#download").click()
        return saved.value.suggested_filename, saved.value.path().read_bytes()

    def copied(self, language: str) -> str:
        """The clipboard after choosing a language and pressing Copy."""
        self.page.locator(f"#tab-{language}").click()
        self.page.locator("#copy").click()
        expect(self.page.locator("#copy")).to_have_text("Copied")
        return self.page.evaluate("navigator.clipboard.readText()")

    def check(self) -> None:
        """No error in the console but of answers that the test provoked; nobody asked but this server."""
        provoked = [text for text in self.complaints if "Failed to load resource" in text]
        assert len(provoked) <= self.refusals, provoked
        assert [text for text in self.complaints if text not in provoked] == []
        assert self.asked
        assert {urlsplit(url).netloc for url in self.asked if not url.startswith("blob:")} == {
            urlsplit(self.url).netloc
        }

    def _note(self, response: Response) -> None:
        if response.status >= 400:
            self.refusals += 1
        if response.url.endswith("/audio/speech"):
            self.speeches.append(response)


def audio_seconds(data: bytes, audio_format: str) -> float:
    """The length of what FFmpeg decodes from a file's bytes."""
    if audio_format == "pcm":
        return len(data) / 2 / 24_000
    samples = 0
    with av.open(io.BytesIO(data), "r") as container:
        rate: Any = container.streams.audio[0].rate
        for frame in container.decode(audio=0):
            samples += frame.samples
    return samples / rate
