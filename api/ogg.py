"""Opus packets in Ogg pages that hold nothing back: a page is written as soon as its packets exist.

FFmpeg's own muxer keeps the latest page until the next one is full. RFC 3533 is the page, RFC 7845 Opus in it.
"""

import secrets
import struct
import zlib
from collections.abc import Sequence
from typing import Final

PACKET_TICKS: Final = 960
"""A packet's duration, 20 ms, at 48 kHz: the rate that Opus counts at, whatever the audio's own is."""
_PAGE_PACKETS: Final = 10
"""What a page holds at most: 200 ms."""
_FIRST: Final = 2
_LAST: Final = 4
_MIRRORED: Final = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))


class OggOpus:
    """One logical stream; the pages are to be joined in the order of the calls."""

    def __init__(self, head: bytes) -> None:
        """`head` is the OpusHead that the encoder made."""
        # Answers may be joined; streams that follow each other in one file need different numbers.
        self._serial = secrets.randbits(32)
        self._head = head
        self._pages = 0
        self._ticks = 0

    def headers(self) -> bytes:
        """The two pages before the audio: what it is, and an empty list of tags."""
        vendor = b"Lyre"
        tags = b"OpusTags" + struct.pack("<I", len(vendor)) + vendor + struct.pack("<I", 0)
        return self._page([self._head], 0, _FIRST) + self._page([tags], 0)

    def pages(self, packets: Sequence[bytes]) -> bytes:
        """Packets of 20 ms in as few pages as may be."""
        parts = []
        for start in range(0, len(packets), _PAGE_PACKETS):
            page = packets[start : start + _PAGE_PACKETS]
            self._ticks += len(page) * PACKET_TICKS
            parts.append(self._page(page, self._ticks))
        return b"".join(parts)

    def last_page(self, packets: Sequence[bytes], end: int) -> bytes:
        """The rest. `end`: how many ticks of all packets count, pre-skip included; players cut off what is behind."""
        return self._page(packets, end, _LAST)

    def _page(self, packets: Sequence[bytes], position: int, flags: int = 0) -> bytes:
        # A length is a row of 255s and what is left, so that 255 itself needs a 0 behind it.
        lacing = b"".join(b"\xff" * (len(packet) // 255) + bytes([len(packet) % 255]) for packet in packets)
        head = struct.pack("<4sBBqII", b"OggS", 0, flags, position, self._serial, self._pages)
        body = bytes([len(lacing)]) + lacing + b"".join(packets)
        self._pages += 1
        return head + struct.pack("<I", _checksum(head + bytes(4) + body)) + body


def _checksum(page: bytes) -> int:
    """Ogg's CRC-32: zlib's polynomial with the bits in the other order, and nothing inverted."""
    mirrored = zlib.crc32(page.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int.from_bytes(mirrored.to_bytes(4, "little").translate(_MIRRORED), "big")
