"""PCM chunks in, bytes of one audio format out, as they come: an AudioEncoder per response_format.

FFmpeg (through PyAV) encodes. After each chunk all frames that are finished leave at once. The speech that has gone in
and cannot be decoded yet is at most, in ms: pcm and wav 0, flac 24, opus 27, mp3 94, aac 128. The last two look ahead,
and begin with 46 and 43 ms of silence that their bare frames cannot declare.
"""

import ctypes
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Protocol

import av
import av._core as av_core

from api.ogg import OggOpus
from api.pcm import SAMPLE_BYTES, SAMPLE_RATE, audio_frame
from api.stretch import TimeStretch
from schemas.speech import ResponseFormat

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
    """Turns PCM into one format; what `encode` and `flush` return is to be joined in order.

    `slow`: encoding a piece takes much longer than handing it to another thread.
    """

    slow: bool

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
    slow: bool = True


_CODECS: Final = {
    # Bare frames: clients join the answers to several requests, and a header in the middle would be noise.
    # A bit reservoir would keep two frames back and is of no use at this bit rate.
    # LAME's level 7 takes half the time of its default and costs nothing measurable at this bit rate.
    ResponseFormat.MP3: _Codec(
        "mp3",
        "libmp3lame",
        128_000,
        {"write_xing": "0", "id3v2_version": "0"},
        {"reservoir": "0", "compression_level": "7"},
    ),
    # The fast coder takes a third of the default's time and follows the waveform as closely.
    ResponseFormat.AAC: _Codec("adts", "aac", 64_000, codec_options={"aac_coder": "fast"}),
    # Short blocks: 24 ms. FFmpeg's demuxer, in many players, reads ten of them before it lets go of the first.
    ResponseFormat.FLAC: _Codec(
        "flac", "flac", None, {"metadata_header_padding": "0"}, {"frame_size": "576"}, slow=False
    ),
}


def _without_threads() -> None:
    """Makes FFmpeg believe in one core.

    PyAV puts a resampling graph in front of every codec, and the graph starts up to 15 threads, one for each core, that
    have nothing to do with audio: at hundreds of streams, thousands. PyAV has no switch; FFmpeg has.
    """
    with suppress(OSError, AttributeError):  # a library that hides the function only has more threads
        ctypes.CDLL(av_core.__file__).av_cpu_force_count(1)


_without_threads()


def encoder_for(audio_format: ResponseFormat, speed: float = 1.0) -> AudioEncoder:
    """A new encoder; `speed` (0.25 to 4) changes the duration and keeps the pitch."""
    encoder: AudioEncoder
    if audio_format is ResponseFormat.PCM:
        encoder = PcmEncoder()
    elif audio_format is ResponseFormat.WAV:
        encoder = WavEncoder()
    elif audio_format is ResponseFormat.OPUS:
        encoder = OpusEncoder()
    else:
        encoder = AvEncoder(_CODECS[audio_format])
    return encoder if speed == 1.0 else StretchedEncoder(encoder, TimeStretch(speed))


class PcmEncoder:
    """The samples as they are."""

    slow = False

    def encode(self, pcm: bytes) -> bytes:
        """The same bytes."""
        return pcm

    def flush(self) -> bytes:
        """Nothing."""
        return b""


class WavEncoder:
    """One header that leaves the sizes open, as OpenAI's does, then the samples."""

    slow = False

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
    byte_rate = SAMPLE_RATE * SAMPLE_BYTES
    head = struct.pack("<4sI4s4sIHHIIHH", b"RIFF", riff, b"WAVE", b"fmt ", 16, 1, 1, SAMPLE_RATE, byte_rate, 2, 16)
    return head + struct.pack("<4sI", b"data", data)


class AvEncoder:
    """Any format whose FFmpeg muxer writes each packet as it comes and never seeks back."""

    def __init__(self, codec: _Codec) -> None:
        self.slow = codec.slow
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
            self._container.mux(self._stream.encode(audio_frame(pcm, self._position)))
            self._position += len(pcm) // SAMPLE_BYTES
        return self._sink.take()

    def flush(self) -> bytes:
        """The last packets and the container's end."""
        self._container.mux(self._stream.encode(None))
        self._container.close()
        return self._sink.take()


class OpusEncoder:
    """Opus in Ogg. Both ends are exact: the header says what to skip before the speech, the last page where to stop."""

    slow = True

    _PRE_SKIP: Final = 312

    def __init__(self) -> None:
        codec = av.CodecContext.create("libopus", "w")
        assert isinstance(codec, av.AudioCodecContext)
        codec.sample_rate, codec.layout, codec.format, codec.bit_rate = SAMPLE_RATE, "mono", "s16", 56_000
        codec.options = {"frame_duration": "20"}
        codec.open()
        assert codec.extradata is not None
        self._codec = codec
        self._ogg = OggOpus(codec.extradata)
        self._headers = self._ogg.headers()
        self._position = 0

    def encode(self, pcm: bytes) -> bytes:
        """A page with the packets that these samples completed, the headers before the first."""
        headers, self._headers = self._headers, b""
        if not pcm:
            return headers
        packets = self._codec.encode(audio_frame(pcm, self._position))
        self._position += len(pcm) // SAMPLE_BYTES
        return headers + self._ogg.pages([bytes(packet) for packet in packets])

    def flush(self) -> bytes:
        """The last page."""
        packets = [bytes(packet) for packet in self._codec.encode(None)]
        end = self._PRE_SKIP + self._position * 48_000 // SAMPLE_RATE
        return self.encode(b"") + self._ogg.last_page(packets, end)


class StretchedEncoder:
    """Changes the speed in front of another encoder."""

    slow = True

    def __init__(self, encoder: AudioEncoder, stretch: TimeStretch) -> None:
        self._encoder = encoder
        self._stretch = stretch

    def encode(self, pcm: bytes) -> bytes:
        """What the inner encoder makes of the samples that are stretched so far."""
        return self._encoder.encode(self._stretch.push(pcm))

    def flush(self) -> bytes:
        """The stretched rest, and the inner encoder's."""
        return self._encoder.encode(self._stretch.flush()) + self._encoder.flush()


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
