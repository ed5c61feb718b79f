"""Ids of new gangs."""

from __future__ import annotations

from serve_core.controller.loop import fresh_ids


def test_ids_are_fresh_and_fit_for_names() -> None:
    ids = fresh_ids()
    drawn = [next(ids) for _ in range(100)]
    assert len(set(drawn)) == 100
    assert all(text.isalnum() for text in drawn)
