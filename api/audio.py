"""PCM chunks in, bytes of one audio format out, as they come: an AudioEncoder per response_format.

PCM is signed 16-bit little-endian mono at 24 kHz, in whole samples. FFmpeg (through PyAV) encodes and stretches.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Protocol

import av
import av.error
from av.filter import Graph

from schemas.speech import ResponseFormat

SAMPLE_RATE: Final = 24_000
_SAMPLE_BYTES: Final = 2
_UNKNOWN_SIZE: Final = 0xFFFFFFFF

MEDIA_TYPES: Final = {
    ResponseFormat.MP3: "audio/mpeg",
    ResponseFormat.OPUS: "audio/opus",
    ResponseFormat.AAC: "audio/aac",
    ResponseFormat.FLAC: "audio/flac",
    ResponseFormat.WAV: "audio/wav",
    ResponseFormat.PCM: "audio/pcm",
}


class AudioEncoder(Protocol):
    """Turns PCM into one format; what `encode` and `flush` return is to be joined in order."""

    def encode(self, pcm: bytes) -> bytes:
        """What can be sent after these samples; may be empty while the codec collects a frame."""
        ...

    def flush(self) -> bytes:
        """The rest; the encoder is used up."""
        ...


@dataclass(frozen=True)
class _Codec:
    """How FFmpeg makes one format."""

    container: str
    codec: str
    bit_rate: int | None = None
    container_options: dict[str, str] = field(default_factory=dict)
    codec_options: dict[str, str] = field(default_factory=dict)


_CODECS: Final = {
    # Bare frames: clients join the answers to several requests, and a header in the middle would be noise.
    # LAME's level 7 takes half the time of its default and costs nothing measurable at this bit rate.
    ResponseFormat.MP3: _Codec(
        "mp3", "libmp3lame", 128_000, {"write_xing": "0", "id3v2_version": "0"}, {"compression_level": "7"}
    ),
    # An Ogg page holds back what is in it, so pages are short: 40 ms instead of FFmpeg's second.
    ResponseFormat.OPUS: _Codec("ogg", "libopus", 56_000, {"page_duration": "40000"}),
    ResponseFormat.AAC: _Codec("adts", "aac", 64_000),
    ResponseFormat.FLAC: _Codec("flac", "flac", container_options={"metadata_header_padding": "0"}),
}


def encoder_for(audio_format: ResponseFormat, speed: float = 1.0) -> AudioEncoder:
    """A new encoder; `speed` (0.25 to 4) changes the duration and keeps the pitch."""
    encoder: AudioEncoder
    if audio_format is ResponseFormat.PCM:
        encoder = PcmEncoder()
    elif audio_format is ResponseFormat.WAV:
        encoder = WavEncoder()
    else:
        encoder = AvEncoder(_CODECS[audio_format])
    return encoder if speed == 1.0 else TimeStretch(encoder, speed)


class PcmEncoder:
    """The samples as they are."""

    def encode(self, pcm: bytes) -> bytes:
        """The same bytes."""
        return pcm

    def flush(self) -> bytes:
        """Nothing."""
        return b""


class WavEncoder:
    """One header that leaves the sizes open, as OpenAI's does, then the samples."""

    def __init__(self) -> None:
        self._header = wav_header()

    def encode(self, pcm: bytes) -> bytes:
        """The samples, the header before the first."""
        header, self._header = self._header, b""
        return header + pcm

    def flush(self) -> bytes:
        """The header when there was nothing else: an empty file is still a WAV file."""
        return self.encode(b"")


def wav_header(pcm_bytes: int | None = None) -> bytes:
    """The 44 bytes before `pcm_bytes` of samples; None: the length is not known yet."""
    data = _UNKNOWN_SIZE if pcm_bytes is None else pcm_bytes
    riff = _UNKNOWN_SIZE if pcm_bytes is None else pcm_bytes + 36
    byte_rate = SAMPLE_RATE * _SAMPLE_BYTES
    head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", riff, b"WAVE", b"fmt ", 16, 1, 1, SAMPLE_RATE, byte_rate, 2, 16)
    return head + struct.pack("<4sI", b"data", data)


class AvEncoder:
    """Any format that FFmpeg can write without seeking back."""

    def __init__(self, codec: _Codec) -> None:
        self._sink = _Sink()
        # flush_packets: hand over each packet at once instead of filling a 32 KiB buffer.
        options = {"flush_packets": "1", **codec.container_options}
        self._container = av.open(self._sink, "w", format=codec.container, options=options)
        stream = self._container.add_stream(codec.codec, rate=SAMPLE_RATE, layout="mono", options=codec.codec_options)
        assert isinstance(stream, av.AudioStream)
        if codec.bit_rate is not None:
            stream.bit_rate = codec.bit_rate
        self._stream = stream
        self._container.start_encoding()
        self._position = 0

    def encode(self, pcm: bytes) -> bytes:
        """The packets that these samples completed."""
        if pcm:
            self._container.mux(self._stream.encode(_frame(pcm, self._position)))
            self._position += len(pcm) // _SAMPLE_BYTES
        return self._sink.take()

    def flush(self) -> bytes:
        """The last packets and the container's end."""
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._sink.take()


class TimeStretch:
    """Speaks faster or slower, in front of another encoder."""

    def __init__(self, encoder: AudioEncoder, speed: float) -> None:
        self._encoder = encoder
        self._position = 0
        self._graph = Graph()
        # One atempo reaches down to 0.5; slower takes two of them.
        tempos = [0.5, speed / 0.5] if speed < 0.5 else [speed]
        source = self._graph.add_abuffer(sample_rate=SAMPLE_RATE, format="s16", layout="mono")
        self._graph.link_nodes(
            source, *(self._graph.add("atempo", f"{tempo:f}") for tempo in tempos), self._graph.add("abuffersink")
        )
        self._graph.configure()

    def encode(self, pcm: bytes) -> bytes:
        """What the inner encoder makes of the samples that are stretched so far."""
        if pcm:
            self._graph.push(_frame(pcm, self._position))
            self._position += len(pcm) // _SAMPLE_BYTES
        return self._encoder.encode(b"".join(self._stretched()))

    def flush(self) -> bytes:
        """The stretched rest, and the inner encoder's."""
        self._graph.push(None)
        return self._encoder.encode(b"".join(self._stretched())) + self._encoder.flush()

    def _stretched(self) -> Iterator[bytes]:
        while True:
            try:
                frame = self._graph.pull()
            except (av.error.BlockingIOError, av.error.EOFError):
                return
            assert isinstance(frame, av.AudioFrame)
            # A plane is padded for alignment; only the samples count.
            yield bytes(frame.planes[0])[: frame.samples * _SAMPLE_BYTES]


class _Sink:
    """A write-only file for the muxer; without `seek`, FFmpeg knows that it cannot go back."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        taken = b"".join(self._parts)
        self._parts.clear()
        return taken


def _frame(pcm: bytes, position: int) -> av.AudioFrame:
    frame = av.AudioFrame(format="s16", layout="mono", samples=len(pcm) // _SAMPLE_BYTES, align=1)
    frame.sample_rate = SAMPLE_RATE
    frame.pts = position
    frame.planes[0].update(pcm)
    return frame
