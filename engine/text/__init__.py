"""Text before it is spoken: normalised to words, cleaned of tokens, cut into chunks."""

from engine.text.chunks import MAX_CHUNK_CHARS, TextChunk, chunks, frame_budget
from engine.text.normaliser import Normaliser

__all__ = ["MAX_CHUNK_CHARS", "Normaliser", "TextChunk", "chunks", "frame_budget"]
