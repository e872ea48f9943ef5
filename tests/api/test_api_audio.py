"""The encoders: recorded headers, true durations, no sample held back longer than a frame needs."""

import struct
from itertools import pairwise

import pytest

from api.audio import MEDIA_TYPES, TimeStretch, encoder_for, wav_header
from schemas.speech import ResponseFormat
from tests.api.fake_engine import RATE, SPEECH, sine
from tests.api.live_server import decode

FFMPEG_FORMATS = [ResponseFormat.MP3, ResponseFormat.OPUS, ResponseFormat.AAC, ResponseFormat.FLAC]
SECONDS = sum(map(len, SPEECH)) / 2 / RATE
# What a codec may add: a lossy one starts with silence of its own and fills its last frame.
SLACK = 0.1


def encode(audio_format: ResponseFormat, speed: float = 1.0) -> list[bytes]:
    """One part for each chunk, then the flushed rest."""
    encoder = encoder_for(audio_format, speed)
    return [*map(encoder.encode, SPEECH), encoder.flush()]


def pitch(pcm: bytes, rate: int) -> float:
    """Hertz of a pure tone, by its upward zero crossings."""
    values = struct.unpack(f"<{len(pcm) // 2}h", pcm)
    rising = [i for i, (a, b) in enumerate(pairwise(values)) if a < 0 <= b]
    return (len(rising) - 1) * rate / (rising[-1] - rising[0])


@pytest.mark.parametrize("audio_format", FFMPEG_FORMATS)
def test_lasts_as_long_as_the_speech(audio_format: ResponseFormat) -> None:
    pcm, rate = decode(b"".join(encode(audio_format)))
    assert len(pcm) / 2 / rate == pytest.approx(SECONDS, abs=SLACK)


@pytest.mark.parametrize("audio_format", FFMPEG_FORMATS)
def test_sounds_like_the_speech(audio_format: ResponseFormat) -> None:
    pcm, rate = decode(b"".join(encode(audio_format)))
    middle = pcm[len(pcm) // 4 // 2 * 2 : len(pcm) // 2 // 2 * 2]
    assert pitch(middle, rate) == pytest.approx(220, rel=0.02)


@pytest.mark.parametrize("audio_format", FFMPEG_FORMATS)
def test_streams(audio_format: ResponseFormat) -> None:
    parts = encode(audio_format)
    sent = [sum(map(len, parts[: index + 1])) for index in range(len(parts))]
    # After a chunk (85 ms) and the codec's own delay, what was sent is never two chunks behind an even spread.
    assert all(sent[index] > 0 for index in range(1, len(parts)))
    assert sent[6] > sent[-1] / 3


def test_flac_is_lossless_and_leaves_its_totals_open() -> None:
    data = b"".join(encode(ResponseFormat.FLAC))
    assert decode(data)[0] == b"".join(SPEECH)
    assert data[:4] == b"fLaC"
    assert struct.unpack(">HH", data[8:12]) == (2304, 2304)
    assert struct.unpack(">Q", data[18:26])[0] & 0xFFFFFFFFF == 0
    assert data[26:42] == bytes(16)


def test_mp3_is_bare_frames() -> None:
    data = b"".join(encode(ResponseFormat.MP3))
    assert data[:4] == bytes.fromhex("fff3c4c4")
    assert not {b"ID3", b"Xing", b"Info", b"LAME3"} & {data[i : i + n] for n in (3, 4, 5) for i in range(200)}


def test_mp3_answers_can_be_joined() -> None:
    data = b"".join(encode(ResponseFormat.MP3))
    pcm, rate = decode(data + data)
    assert len(pcm) / 2 / rate == pytest.approx(2 * SECONDS, abs=2 * SLACK)


def test_opus_says_24_khz_and_has_short_pages() -> None:
    data = b"".join(encode(ResponseFormat.OPUS))
    head = data.index(b"OpusHead")
    assert struct.unpack("<BBHI", data[head + 8 : head + 16]) == (1, 1, 312, RATE)
    positions = [struct.unpack("<q", page[2:10])[0] for page in data.split(b"OggS")[3:]]
    # Granule positions count at 48 kHz.
    assert max(b - a for a, b in pairwise(positions)) <= 0.2 * 48_000


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


@pytest.mark.parametrize("speed", [0.25, 0.4, 0.5, 0.8, 1.25, 2.0, 4.0])
def test_speed_changes_the_duration_and_keeps_the_pitch(speed: float) -> None:
    pcm = b"".join(encode(ResponseFormat.PCM, speed))
    assert len(pcm) % 2 == 0
    assert len(pcm) / 2 / RATE == pytest.approx(SECONDS / speed, rel=0.03, abs=0.02)
    assert pitch(pcm, RATE) == pytest.approx(220, rel=0.03)


def test_speed_one_costs_nothing() -> None:
    assert not isinstance(encoder_for(ResponseFormat.PCM, 1.0), TimeStretch)


def test_speed_works_in_front_of_every_format() -> None:
    pcm, rate = decode(b"".join(encode(ResponseFormat.MP3, 2.0)))
    assert len(pcm) / 2 / rate == pytest.approx(SECONDS / 2, abs=SLACK)
    assert encode(ResponseFormat.WAV, 2.0)[0][:4] == b"RIFF"


@pytest.mark.parametrize("audio_format", FFMPEG_FORMATS)
@pytest.mark.parametrize("samples", [1, 7, 700])
def test_chunks_may_have_any_length(audio_format: ResponseFormat, samples: int) -> None:
    encoder = encoder_for(audio_format)
    data = encoder.encode(b"") + encoder.encode(sine(samples)) + encoder.encode(b"") + encoder.flush()
    # Two frames of ADTS are too few to be recognised without a hint.
    hint = "aac" if audio_format is ResponseFormat.AAC else None
    assert len(decode(data, hint)[0]) >= samples * 2
