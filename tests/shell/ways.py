"""Both ways to a replica: a gRPC call for each call, and a link that carries them all."""

from __future__ import annotations

import pytest

from router import upstream


class Offer:
    """Whether replicas under test offer links."""

    links = True


@pytest.fixture(params=["calls", "link"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each test that uses this runs over both."""
    monkeypatch.setattr(Offer, "links", request.param == "link")
    monkeypatch.setattr(upstream, "ALONE", 0)
    chosen: str = request.param
    return chosen
