"""The benchmark of the server's own process: its stand-in engine takes the place of the real one."""

import json

import pytest

from benchmarks.http_path import main


@pytest.mark.slow
def test_a_stand_in_engine_gives_every_stream_its_pieces(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--streams", "3", "--formats", "wav", "--ramp", "0.2", "--duration", "1.5"]) == 0
    row = json.loads(capfd.readouterr().out.splitlines()[-1])["rows"][0]
    assert (row["format"], row["streams"]) == ("wav", 3)
    assert row["pieces_per_s"] > 0
    assert row["cpu_us"] > 0
