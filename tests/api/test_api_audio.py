"""The encoders: recorded headers, the same speech in every format to its last sample, little of it ever held back."""

import gc
import struct
import threading
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from api.audio import MEDIA_TYPES, StretchedEncoder, encoder_for, wav_header
from api.speech import encoded
from api.stretch import TimeStretch
from schemas.speech import ResponseFormat
from tests.api.fake_engine import RATE, SPEECH, sine
from tests.api.live_server import decode

FFMPEG_FORMATS = [ResponseFormat.MP3, ResponseFormat.OPUS, ResponseFormat.AAC, ResponseFormat.FLAC]
SECONDS = sum(map(len, SPEECH)) / 2 / RATE
# Samples at 24 kHz: what the decoded speech begins behind, and how long a frame of the codec is.
DELAY = {ResponseFormat.MP3: 1105, ResponseFormat.OPUS: 0, ResponseFormat.AAC: 1024, ResponseFormat.FLAC: 0}
FRAME = {ResponseFormat.MP3: 576, ResponseFormat.OPUS: 0, ResponseFormat.AAC: 1024, ResponseFormat.FLAC: 0}
# Milliseconds of speech that have gone in and cannot be decoded yet; api.audio's own claim.
HELD = {ResponseFormat.MP3: 94, ResponseFormat.OPUS: 27, ResponseFormat.AAC: 128, ResponseFormat.FLAC: 24}

Samples = NDArray[np.float64]


def voice(seconds: float, hertz: float = 120.0) -> bytes:
    """A buzz of a known pitch in syllables, and noise: it matches itself at one delay only, and goes on to the end."""
    t = np.arange(round(seconds * RATE)) / RATE
    buzz = sum(np.sin(2 * np.pi * hertz * k * t) / k for k in range(1, 20))
    noise = np.random.default_rng(1).standard_normal(len(t))
    syllables = np.clip(np.sin(2 * np.pi * 3.1 * t + 0.3 * t**2), -0.3, 1) + 0.3
    wave = 5000 * syllables * buzz + 300 * noise
    return np.clip(np.rint(wave), -32768, 32767).astype("<i2").tobytes()


VOICE = voice(1.7)


def chunks_of(pcm: bytes, first: int = 1387, rest: int = 2048) -> list[bytes]:
    """As the engine sends: the first frames lack the codec's look-ahead."""
    return [pcm[: 2 * first], *(pcm[i : i + 2 * rest] for i in range(2 * first, len(pcm), 2 * rest))]


def encode(audio_format: ResponseFormat, speed: float = 1.0, chunks: list[bytes] = SPEECH) -> list[bytes]:
    """One part for each chunk, then the flushed rest."""
    encoder = encoder_for(audio_format, speed)
    return [*map(encoder.encode, chunks), encoder.flush()]


def samples(pcm: bytes) -> Samples:
    return np.frombuffer(pcm, "<i2").astype(float)


def heard(data: bytes, audio_format: ResponseFormat) -> Samples:
    """Decoded, at 24 kHz. Opus always decodes at 48 kHz and has nothing above 12."""
    containers = {ResponseFormat.OPUS: "ogg"}
    pcm, rate = decode(data, containers.get(audio_format, audio_format.value))
    return samples(pcm)[:: rate // RATE]


def correlation(a: Samples, b: Samples) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def pitch(pcm: bytes, rate: int) -> float:
    """Hertz of a pure tone, by its upward zero crossings."""
    values = struct.unpack(f"<{len(pcm) // 2}h", pcm)
    rising = [i for i, (a, b) in enumerate(pairwise(values)) if a < 0 <= b]
    return (len(rising) - 1) * rate / (rising[-1] - rising[0])


def period(wave: Samples) -> float:
    """Samples after which a buzz repeats itself best, 60 to 400 Hz."""
    lags = range(RATE // 400, RATE // 60)
    return max(lags, key=lambda lag: correlation(wave[:-lag], wave[lag:]))


@pytest.mark.parametrize("audio_format", FFMPEG_FORMATS)
def test_decodes_to_the_same_speech_at_the_codecs_delay(audio_format: ResponseFormat) -> None:
    source = samples(VOICE)
    decoded = heard(b"".join(encode(audio_format, chunks=chunks_of(VOICE))), audio_format)
    delay = DELAY[audio_format]
    peaks = [correlation(decoded[lag:][: len(source)], source[: len(decoded[lag:])]) for lag in range(delay + 40)]
    assert abs(int(np.argmax(peaks)) - delay) <= 2
    assert max(peaks) > 0.9


@pytest.mark.parametrize("audio_format", FFMPEG_FORMATS)
@pytest.mark.parametrize("extra", [0, 1, 300, 575])
def test_loses_nothing_at_the_end_and_adds_less_than_a_frame(audio_format: ResponseFormat, extra: int) -> None:
    pcm = VOICE[: len(VOICE) - 2 * extra]
    source, last = samples(pcm), RATE // 20
    decoded = heard(b"".join(encode(audio_format, chunks=chunks_of(pcm))), audio_format)
    added = len(decoded) - len(source) - DELAY[audio_format]
    assert 0 <= added <= max(0, FRAME[audio_format] - 1)
    end = len(source) + DELAY[audio_format]
    assert correlation(decoded[end - last : end], source[-last:]) > 0.9


@pytest.mark.parametrize("audio_format", FFMPEG_FORMATS)
def test_holds_back_no_more_than_it_says(audio_format: ResponseFormat) -> None:
    given = sent = 0
    data = b""
    encoder = encoder_for(audio_format)
    for chunk in chunks_of(VOICE[: 2 * RATE]):
        given += len(chunk) // 2
        data += encoder.encode(chunk)
        sent = len(heard(data, audio_format)) - DELAY[audio_format] if len(data) > 400 else 0
        assert (given - max(0, sent)) / RATE * 1000 <= HELD[audio_format]
    assert sent > RATE / 2


@pytest.mark.parametrize("audio_format", [ResponseFormat.WAV, ResponseFormat.OPUS, ResponseFormat.FLAC])
def test_the_first_chunk_brings_decodable_audio(audio_format: ResponseFormat) -> None:
    first = encoder_for(audio_format).encode(chunks_of(VOICE)[0])
    assert len(heard(first, audio_format)) >= 1387 - RATE * HELD.get(audio_format, 0) / 1000


def test_the_first_chunk_brings_a_whole_mp3_frame() -> None:
    first = encoder_for(ResponseFormat.MP3).encode(chunks_of(VOICE)[0])
    assert len(first) == 384
    decoder = av.CodecContext.create("mp3", "r")
    assert isinstance(decoder, av.AudioCodecContext)
    assert sum(frame.samples for frame in decoder.decode(av.Packet(first))) == 576


def test_the_second_chunk_brings_the_first_aac() -> None:
    encoder = encoder_for(ResponseFormat.AAC)
    first, second = (encoder.encode(chunk) for chunk in chunks_of(VOICE)[:2])
    assert first == b""
    assert len(heard(second, ResponseFormat.AAC)) == 2 * 1024


def test_flac_is_lossless_and_leaves_its_totals_open() -> None:
    data = b"".join(encode(ResponseFormat.FLAC))
    assert decode(data)[0] == b"".join(SPEECH)
    assert data[:4] == b"fLaC"
    assert struct.unpack(">HH", data[8:12]) == (576, 576)
    assert struct.unpack(">Q", data[18:26])[0] & 0xFFFFFFFFF == 0
    assert data[26:42] == bytes(16)


def test_mp3_is_bare_frames() -> None:
    data = b"".join(encode(ResponseFormat.MP3))
    assert data[:4] == bytes.fromhex("fff3c4c4")
    assert not {b"ID3", b"Xing", b"Info", b"LAME3"} & {data[i : i + n] for n in (3, 4, 5) for i in range(200)}


def test_mp3_frames_stand_alone() -> None:
    data = b"".join(encode(ResponseFormat.MP3, chunks=chunks_of(VOICE)))
    # 128 kb/s are 384 bytes in 24 ms. Layer III's side information begins with how far back a frame's data reaches.
    assert len(data) % 384 == 0
    assert {data[start + 4] for start in range(0, len(data), 384)} == {0}


@pytest.mark.parametrize("audio_format", [ResponseFormat.MP3, ResponseFormat.AAC, ResponseFormat.OPUS])
def test_answers_can_be_joined(audio_format: ResponseFormat) -> None:
    one, other = (b"".join(encode(audio_format)) for _ in range(2))
    slack = 2 * (DELAY[audio_format] + FRAME[audio_format]) + 1
    assert len(heard(one + other, audio_format)) == pytest.approx(2 * SECONDS * RATE, abs=slack)


def test_opus_says_24_khz_and_has_short_pages() -> None:
    data = b"".join(encode(ResponseFormat.OPUS, chunks=[VOICE]))
    head = data.index(b"OpusHead")
    assert struct.unpack("<BBHI", data[head + 8 : head + 16]) == (1, 1, 312, RATE)
    positions = [struct.unpack("<q", page[2:10])[0] for page in data.split(b"OggS")[3:]]
    # Granule positions count at 48 kHz.
    assert max(b - a for a, b in pairwise([0, *positions])) <= 0.2 * 48_000
    assert positions[-1] == 312 + len(VOICE)


def test_aac_is_adts() -> None:
    assert b"".join(encode(ResponseFormat.AAC))[:2] == bytes.fromhex("fff1")


def test_pcm_is_the_samples() -> None:
    assert encode(ResponseFormat.PCM) == [*SPEECH, b""]


def test_wav_has_one_header_with_open_sizes() -> None:
    parts = encode(ResponseFormat.WAV)
    header = parts[0][:44]
    assert header == bytes.fromhex(
        "52494646 ffffffff 57415645 666d7420 10000000 0100 0100 c05d0000 80bb0000 0200 1000 64617461 ffffffff"
    )
    assert b"".join(parts)[44:] == b"".join(SPEECH)


def test_wav_header_of_a_known_length() -> None:
    assert struct.unpack("<I", wav_header(1000)[4:8]) == (1036,)
    assert struct.unpack("<I", wav_header(1000)[40:]) == (1000,)


@pytest.mark.parametrize("audio_format", list(ResponseFormat))
def test_every_format_has_a_media_type_and_survives_silence(audio_format: ResponseFormat) -> None:
    assert MEDIA_TYPES[audio_format].startswith("audio/")
    assert isinstance(encoder_for(audio_format).flush(), bytes)


@pytest.mark.parametrize("audio_format", list(ResponseFormat))
def test_an_encoder_starts_no_threads(audio_format: ResponseFormat) -> None:
    tasks = Path("/proc/self/task")
    if not tasks.is_dir():
        pytest.skip("needs Linux")
    before = len(list(tasks.iterdir()))
    encoders = [encoder_for(audio_format) for _ in range(8)]
    for encoder in encoders:
        encoder.encode(bytes(4096))
    # Another test's threads may end meanwhile, but none of these begins.
    assert len(list(tasks.iterdir())) <= before
    for encoder in encoders:
        encoder.flush()


@pytest.mark.parametrize("audio_format", list(ResponseFormat))
def test_an_encoder_may_be_left_in_the_middle(audio_format: ResponseFormat) -> None:
    encoder = encoder_for(audio_format, 1.5)
    encoder.encode(SPEECH[0])
    del encoder
    # What a destructor cannot do would be a warning here, and that an error.
    gc.collect()


@pytest.mark.parametrize("speed", [0.25, 0.4, 0.5, 0.8, 1.25, 1.5, 2.0, 4.0])
def test_speed_changes_the_duration_and_keeps_the_pitch(speed: float) -> None:
    pcm = b"".join(encode(ResponseFormat.PCM, speed))
    assert len(pcm) / 2 == round(SECONDS * RATE / speed)
    assert pitch(pcm, RATE) == pytest.approx(220, rel=0.03)


@pytest.mark.parametrize("speed", [0.25, 0.5, 1.5, 2.0, 4.0])
def test_speed_keeps_a_voices_pitch(speed: float) -> None:
    spoken = samples(b"".join(encode(ResponseFormat.PCM, speed, chunks_of(VOICE))))
    assert RATE / period(spoken) == pytest.approx(120, rel=0.03)


@pytest.mark.parametrize("speed", [0.25, 0.3, 0.5, 0.9, 2.0, 4.0])
@pytest.mark.parametrize("length", [1, 400, 513, 2048, 5000])
def test_speed_is_exact_for_short_speech_and_keeps_its_end(speed: float, length: int) -> None:
    stretch = TimeStretch(speed)
    pcm = stretch.push(sine(length)) + stretch.flush()
    assert len(pcm) == pytest.approx(2 * round(length / speed), abs=2)
    if length > 1000:
        # The tone lasts to the end, but for what the alignment of the pieces may move it: 20 ms of speech.
        assert np.abs(samples(pcm)[-round(0.025 * RATE / speed) :]).max() > 8000


@pytest.mark.parametrize("speed", [0.25, 0.5, 1.5, 4.0])
def test_speed_streams(speed: float) -> None:
    stretch = TimeStretch(speed)
    given = sent = 0
    for chunk in chunks_of(VOICE)[:12]:
        sent += len(stretch.push(chunk)) // 2
        given += len(chunk) // 2
        assert (given - sent * speed) / RATE <= (0.08 if speed >= 0.5 else 0.16)


def test_speed_one_costs_nothing() -> None:
    assert not isinstance(encoder_for(ResponseFormat.PCM, 1.0), StretchedEncoder)


def test_speed_works_in_front_of_every_format() -> None:
    assert len(heard(b"".join(encode(ResponseFormat.OPUS, 2.0)), ResponseFormat.OPUS)) == round(SECONDS * RATE / 2)
    assert encode(ResponseFormat.WAV, 2.0)[0][:4] == b"RIFF"


@pytest.mark.parametrize("audio_format", FFMPEG_FORMATS)
@pytest.mark.parametrize("length", [1, 7, 700])
def test_chunks_may_have_any_length(audio_format: ResponseFormat, length: int) -> None:
    encoder = encoder_for(audio_format)
    data = encoder.encode(b"") + encoder.encode(sine(length)) + encoder.encode(b"") + encoder.flush()
    # Two frames of ADTS are too few to be recognised without a hint.
    hint = "aac" if audio_format is ResponseFormat.AAC else None
    assert len(decode(data, hint)[0]) >= length * 2


@pytest.mark.parametrize(("audio_format", "beside"), [(ResponseFormat.MP3, True), (ResponseFormat.PCM, False)])
async def test_slow_formats_are_encoded_beside_the_event_loop(
    audio_format: ResponseFormat, beside: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, threads = encoder_for(audio_format), set[int]()
    encode = encoder.encode

    def watched(pcm: bytes) -> bytes:
        threads.add(threading.get_ident())
        return encode(pcm)

    async def rest() -> AsyncIterator[bytes]:
        for chunk in pieces[1:]:
            yield chunk

    pieces = chunks_of(VOICE)
    monkeypatch.setattr(encoder, "encode", watched)
    parts = [part async for part in encoded(pieces[0], rest(), encoder)]
    again = encoder_for(audio_format)
    assert b"".join(parts) == b"".join([*map(again.encode, pieces), again.flush()])
    assert (threading.get_ident() not in threads) is beside
