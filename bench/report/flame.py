"""A flame graph as an SVG picture that needs no script: widths are shares of samples, callees stand on their callers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH_PX = 1200
ROW_PX = 17
HEAD_PX = 44
CHARACTER_PX = 6.3
SHARE_MIN = 0.004
"""What is narrower is left out."""

OURS = ("serve_core/", "router/", "replica/")
COLOURS = {"ours": "#e0a458", "grpc": "#8fb3d9", "other": "#d9d9d9"}
LEGEND = {"ours": "serve-core", "grpc": "grpcio", "other": "Python and the user's code"}


@dataclass(slots=True)
class Frame:
    """A function as it was called on one way: the samples in it and in what it calls."""

    name: str
    samples: int = 0
    calls: dict[str, Frame] = field(default_factory=dict)

    @property
    def owner(self) -> str:
        """Whose code it is."""
        file = self.name.rpartition(" (")[2]
        if file.startswith(OURS):
            return "ours"
        return "grpc" if file.startswith("grpc/") else "other"


def stacks(raw: str, *, thread: str, root: str) -> Iterator[tuple[Sequence[str], int]]:
    """The stacks of one thread, from what py-spy calls raw: frames by semicolon, from the outermost on, and a count.

    Args:
        raw: One line for each different stack.
        thread: The thread's name; others wait for it, or for events.
        root: A function that all stacks begin in: those before it are left out.
    """
    for line in raw.splitlines():
        path, _, count = line.rpartition(" ")
        frames = path.split(";")
        if frames[0].endswith(f": {thread}"):
            begin = next((at for at, name in enumerate(frames) if name.startswith(root)), 0)
            yield frames[begin + 1 :], int(count)


def tree(taken: Iterable[tuple[Sequence[str], int]], name: str) -> Frame:
    """All stacks as one tree."""
    root = Frame(name)
    for frames, count in taken:
        at = root
        at.samples += count
        for one in frames:
            at = at.calls.setdefault(one, Frame(one))
            at.samples += count
    return root


def svg(root: Frame, heading: str) -> str:
    """The picture. The outermost function is below; what a function took is told when one points at it."""
    placed = list(_placed(root, root.samples or 1, 0.0, 0))
    depth = max((one[2] for one in placed), default=0)
    height = HEAD_PX + ROW_PX * (depth + 1) + 6
    legend = [
        f'<rect x="{10 + 190 * at}" y="24" width="11" height="11" fill="{COLOURS[owner]}"/>'
        f'<text x="{26 + 190 * at}" y="34">{escape(text)}</text>'
        for at, (owner, text) in enumerate(LEGEND.items())
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH_PX}" height="{height}" '
            f'viewBox="0 0 {WIDTH_PX} {height}" font-family="monospace" font-size="10.5">',
            f'<rect width="{WIDTH_PX}" height="{height}" fill="white"/>',
            f'<text x="10" y="16" font-size="13">{escape(heading)}</text>',
            *legend,
            *(_box(frame, x, height - 6 - ROW_PX * (row + 1), root.samples or 1) for frame, x, row in placed),
            "</svg>\n",
        ]
    )


def _placed(frame: Frame, total: int, x: float, row: int) -> Iterator[tuple[Frame, float, int]]:
    if frame.samples < total * SHARE_MIN:
        return
    yield frame, x, row
    for called in sorted(frame.calls.values(), key=lambda one: one.name):
        yield from _placed(called, total, x, row + 1)
        x += called.samples / total * WIDTH_PX


def _box(frame: Frame, x: float, y: int, total: int) -> str:
    width = frame.samples / total * WIDTH_PX
    letters = int((width - 4) / CHARACTER_PX)
    text = frame.name if len(frame.name) <= letters else f"{frame.name[: letters - 1]}…" if letters > 3 else ""
    return (
        f"<g><title>{escape(frame.name)}: {frame.samples / total:.1%}</title>"
        f'<rect x="{x:.1f}" y="{y}" width="{max(width - 0.5, 0.2):.1f}" height="{ROW_PX - 1}" '
        f'fill="{COLOURS[frame.owner]}"/>'
        f'<text x="{x + 2:.1f}" y="{y + 12}">{escape(text)}</text></g>'
    )
