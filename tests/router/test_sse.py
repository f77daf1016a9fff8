"""What a frame that never ends costs."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from router.sse import MAX_FRAME_BYTES, FrameSplitter, FrameTooLarge

PIECE = b"x" * 1400


def cpu_s(work: Callable[[], None]) -> float:
    """The least of three, in this process's own time: what else the machine does counts little."""
    times = []
    for _ in range(3):
        started_s = time.process_time()
        work()
        times.append(time.process_time() - started_s)
    return min(times)


@pytest.mark.parametrize("piece", [PIECE, PIECE + b"\r", PIECE + b"\n", PIECE + b"\r\n"])
def test_splitter_takes_four_times_the_pieces_in_about_four_times_the_time_when_no_frame_ends(piece: bytes) -> None:
    def feed(count: int) -> None:
        splitter = FrameSplitter()
        for _ in range(count):
            assert splitter.feed(piece) == b""

    few_s, many_s = cpu_s(lambda: feed(1000)), cpu_s(lambda: feed(4000))
    assert many_s < 10 * few_s, "the cost of one open frame grows faster than the frame"


def test_splitter_refuses_a_frame_that_never_ends_when_it_comes_in_pieces() -> None:
    splitter = FrameSplitter()
    for _ in range(MAX_FRAME_BYTES // len(PIECE)):
        splitter.feed(PIECE)
    with pytest.raises(FrameTooLarge):
        splitter.feed(PIECE)


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n", b"\r\n\n"])
def test_splitter_finds_the_blank_line_when_it_is_cut_anywhere(end: bytes) -> None:
    for cut in range(len(end) + 1):
        splitter = FrameSplitter()
        got = splitter.feed(b"data: " + end[:cut]) + splitter.feed(end[cut:]) + splitter.feed(b"data: next")
        assert got == b"data: " + end, cut
        assert splitter.rest() == b"data: next"


def test_splitter_forgets_the_seam_when_a_frame_has_ended() -> None:
    splitter = FrameSplitter()
    assert splitter.feed(b"a\n") + splitter.feed(b"\nb") == b"a\n\n"
    assert splitter.feed(b"\n") == b""
    assert splitter.feed(b"\n") == b"b\n\n"
    assert splitter.feed(b"\nc") == b""
    assert splitter.rest() == b"\nc"
