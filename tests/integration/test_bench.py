"""The benchmark's whole way, as small as it can be: servers, a cluster, load, rounds and a report."""

import pytest

from bench.rows import pairs
from bench.rows.stage import Size
from bench.speed import measure

pytestmark = pytest.mark.integration


async def test_a_row_is_measured_and_reported() -> None:
    report = await measure([pairs.ROW], Size(concurrencies=(2,)), seconds=0.2, rounds=2)
    (result,) = report.results
    assert result.spread.least > 0
    text = report.text("On this machine.")
    assert "reserve + dispatch pairs over single calls to bare grpc.aio, at 2" in text
    assert "| reserve + dispatch through the router, 2 concurrent |" in text
    assert len(report.raw["pairs"]["cases"]["pairs@2"]["rounds"]) == 2
