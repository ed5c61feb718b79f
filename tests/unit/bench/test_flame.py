"""Flame graphs, from stacks as py-spy tells them."""

import xml.etree.ElementTree as ElementTree

from bench.report.flame import stacks, svg, tree

RAW = """\
thread (7): MainThread;main (app.py:1);Runner.run (asyncio/runners.py:86);take (router/forward.py:3);send (grpc/aio/_call.py:5) 30
thread (7): MainThread;main (app.py:1);Runner.run (asyncio/runners.py:86);take (router/forward.py:3) 20
thread (7): MainThread;main (app.py:1);Runner.run (asyncio/runners.py:86);echo (echo.py:9) 50
thread (8): poller;wait (grpc/_poll.py:1) 100
"""


def loop() -> list[tuple[list[str], int]]:
    return [(list(frames), count) for frames, count in stacks(RAW, thread="MainThread", root="Runner.run")]


def test_only_the_loops_thread_is_taken_and_only_from_the_loop_on() -> None:
    assert loop() == [
        (["take (router/forward.py:3)", "send (grpc/aio/_call.py:5)"], 30),
        (["take (router/forward.py:3)"], 20),
        (["echo (echo.py:9)"], 50),
    ]


def test_a_function_has_the_samples_of_what_it_calls() -> None:
    root = tree(loop(), "event loop")
    take = root.calls["take (router/forward.py:3)"]
    assert (root.samples, take.samples) == (100, 50)
    assert take.calls["send (grpc/aio/_call.py:5)"].samples == 30


def test_code_has_an_owner() -> None:
    root = tree(loop(), "event loop")
    take = root.calls["take (router/forward.py:3)"]
    (send,) = take.calls.values()
    assert (take.owner, send.owner, root.calls["echo (echo.py:9)"].owner) == ("ours", "grpc", "other")


def test_widths_are_shares() -> None:
    picture = ElementTree.fromstring(svg(tree(loop(), "event loop"), "router"))
    boxes = {
        (one.findtext("{*}title") or "").rpartition(":")[0]: one.find("{*}rect") for one in picture.findall("{*}g")
    }
    widths = {name: float(box.get("width", "0")) for name, box in boxes.items() if box is not None}
    assert widths["event loop"] == 1199.5
    assert widths["send (grpc/aio/_call.py:5)"] == 359.5


def test_what_is_too_narrow_is_left_out() -> None:
    taken = [(["wide"], 1000), (["narrow"], 1)]
    picture = svg(tree(taken, "event loop"), "router")
    assert "wide" in picture
    assert "narrow" not in picture


def test_nothing_sampled_is_an_empty_picture() -> None:
    assert svg(tree([], "event loop"), "router").startswith("<svg")
