"""Puts a report into a page of the documentation, in the place of the one before."""

from __future__ import annotations


def marks(name: str) -> tuple[str, str]:
    """What stands before and after a report in a page."""
    return f"<!-- measured: {name} -->", f"<!-- end of measured: {name} -->"


def with_report(page: str, name: str, report: str) -> str:
    """The page with another report between its marks.

    Raises:
        ValueError: The page has no such marks.
    """
    begin, end = marks(name)
    before, found, rest = page.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise ValueError(f"the page has no place for a report: write {begin} and {end} into it")
    return f"{before}{begin}\n\n{report.strip()}\n\n{end}{after}"
