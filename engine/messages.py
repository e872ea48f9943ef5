"""What crosses the boundary between the server's process and the engine process, by direction.

Encoded with msgpack: one message a ZeroMQ frame to the engine, a list of messages from it. Audio is signed 16-bit
little-endian mono PCM.
"""

from __future__ import annotations

import msgspec

from engine.text import MAX_CHUNK_CHARS, TextChunk

# ---- server -> engine


class Generate(msgspec.Struct, tag=True, frozen=True):
    """Speak `chunks` in order, with their pauses, in one voice. All fields are final: the sender fills in defaults."""

    request_id: int
    chunks: list[TextChunk]
    voice: str
    temperature: float
    top_p: float
    top_k: int
    repetition_penalty: float
    repetition_window: int
    seed: int
    max_tokens: int | None
    patience: float | None = None  # seconds that it may wait for a slot; then `Finished` with reason "expired"


class Cancel(msgspec.Struct, tag=True, frozen=True):
    """Stop a request; answered by `Finished` with reason "cancelled" unless it had finished before."""

    request_id: int


class Stop(msgspec.Struct, tag=True, frozen=True):
    """Leave at once; what still runs is dropped."""


ToEngine = Generate | Cancel | Stop

# ---- engine -> server


class SamplingDefaults(msgspec.Struct, frozen=True):
    """The checkpoint's own sampling defaults."""

    temperature: float
    top_p: float
    top_k: int
    repetition_penalty: float
    repetition_window: int


class ModelInfo(msgspec.Struct, frozen=True):
    """What is loaded: names, voices and how it runs."""

    model: str
    codec: str
    demo: bool
    voices: list[str]
    defaults: SamplingDefaults
    sample_rate: int
    device: str
    dtype: str
    kernel: str
    attention: str
    slots: int
    max_context: int
    parameters: int
    load_seconds: float
    chunk_chars: int = MAX_CHUNK_CHARS  # the longest piece of text that the model speaks in one go
    commit: str | None = None  # the model's and the codec's on the hub; None where they are folders
    codec_commit: str | None = None


class Loading(msgspec.Struct, tag=True, frozen=True, array_like=True):
    """Start-up progress: what is being done, and the share that is done (0..1)."""

    stage: str
    done: float


class Ready(msgspec.Struct, tag=True, frozen=True, array_like=True):
    """The models are loaded and a warm synthesis has succeeded."""

    info: ModelInfo


class Broken(msgspec.Struct, tag=True, frozen=True, array_like=True):
    """The engine cannot start; the process ends after this. `kind` is the error's class name."""

    kind: str
    message: str
    field: str | None = None


class Started(msgspec.Struct, tag=True, frozen=True, array_like=True):
    """The request has got its slot: the end of its time in the queue."""

    request_id: int


class Stepped(msgspec.Struct, tag=True, frozen=True, array_like=True):
    """A frame of the batch has landed: of how many streams, and how long the language model took for it."""

    streams: int
    seconds: float


class Audio(msgspec.Struct, tag=True, frozen=True, array_like=True, gc=False):
    """The next samples of a request; `tokens` are the audio codes generated for it so far."""

    request_id: int
    pcm: bytes
    tokens: int


class Finished(msgspec.Struct, tag=True, frozen=True, array_like=True):
    """The request's slot is free. `reason`: a `FinishReason`."""

    request_id: int
    reason: str
    input_tokens: int
    output_tokens: int


class Failed(msgspec.Struct, tag=True, frozen=True, array_like=True):
    """The request broke; its slot is free. `param` is set when the request itself was at fault."""

    request_id: int
    message: str
    param: str | None = None


FromEngine = Loading | Ready | Broken | Started | Stepped | Audio | Finished | Failed
