"""Reports in pages."""

import pytest

from bench.report.page import marks, with_report

BEGIN, END = marks("speed")


def test_the_report_takes_the_place_of_the_one_before() -> None:
    page = f"# Title\n\n{BEGIN}\nold\n{END}\n\nmore\n"
    once = with_report(page, "speed", "new\n")
    assert once == f"# Title\n\n{BEGIN}\n\nnew\n\n{END}\n\nmore\n"
    assert with_report(once, "speed", "new") == once


@pytest.mark.parametrize("page", ["", BEGIN, f"{END}\n{BEGIN}"])
def test_a_page_without_a_place_is_left_alone(page: str) -> None:
    with pytest.raises(ValueError, match="no place"):
        with_report(page, "speed", "new")
