"""Ogg pages: whole packets in order, true checksums, and an end that is marked."""

import struct
from dataclasses import dataclass

from api.ogg import PACKET_TICKS, OggOpus

HEAD = b"OpusHead" + bytes(11)
FIRST, LAST = 2, 4


@dataclass
class Page:
    flags: int
    position: int
    serial: int
    number: int
    packets: list[bytes]


def checksum(data: bytes) -> int:
    """RFC 3533's CRC, bit by bit."""
    value = 0
    for byte in data:
        value ^= byte << 24
        for _ in range(8):
            value = (value << 1 ^ (0x04C11DB7 if value & 0x80000000 else 0)) & 0xFFFFFFFF
    return value


def pages_of(data: bytes) -> list[Page]:
    """Reads pages as the RFC says; fails on anything that is not one."""
    pages = []
    while data:
        magic, version, flags, position, serial, number, crc, segments = struct.unpack("<4sBBqIIIB", data[:27])
        assert (magic, version) == (b"OggS", 0)
        lacing = data[27 : 27 + segments]
        length = 27 + segments + sum(lacing)
        assert checksum(data[:22] + bytes(4) + data[26:length]) == crc
        pages.append(Page(flags, position, serial, number, packets_of(lacing, data[27 + segments : length])))
        data = data[length:]
    return pages


def packets_of(lacing: bytes, body: bytes) -> list[bytes]:
    packets, packet = [], b""
    for size in lacing:
        packet, body = packet + body[:size], body[size:]
        if size < 255:
            packets.append(packet)
            packet = b""
    assert packet == body == b""
    return packets


def test_headers_come_first_on_pages_of_their_own() -> None:
    head, tags = pages_of(OggOpus(HEAD).headers())
    assert (head.flags, head.position, head.number, head.packets) == (FIRST, 0, 0, [HEAD])
    assert (tags.flags, tags.position, tags.number) == (0, 0, 1)
    assert tags.packets == [b"OpusTags\x04\0\0\0Lyre\0\0\0\0"]


def test_packets_of_any_length_come_back() -> None:
    packets = [bytes([i]) * length for i, length in enumerate([1, 254, 255, 256, 510, 1275])]
    (page,) = pages_of(OggOpus(HEAD).pages(packets))
    assert page.packets == packets
    assert page.position == 6 * PACKET_TICKS


def test_a_page_lasts_200_ms_at_most() -> None:
    ogg = OggOpus(HEAD)
    pages = pages_of(ogg.pages([b"x"] * 25) + ogg.pages([]) + ogg.pages([b"y"]))
    assert [len(page.packets) for page in pages] == [10, 10, 5, 1]
    assert [page.position for page in pages] == [n * PACKET_TICKS for n in (10, 20, 25, 26)]
    assert [page.number for page in pages] == [0, 1, 2, 3]


def test_the_last_page_says_where_the_speech_ends() -> None:
    ogg = OggOpus(HEAD)
    ogg.pages([b"x"])
    (page,) = pages_of(ogg.last_page([b"y"], 1000))
    assert (page.flags, page.position, page.packets) == (LAST, 1000, [b"y"])


def test_two_answers_have_different_numbers() -> None:
    serials = {pages_of(OggOpus(HEAD).headers())[0].serial for _ in range(5)}
    assert len(serials) == 5
