"""Pages that are made from the code are fresh, and links between pages lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*/*.md")])


@pytest.mark.parametrize("page", ["errors.md", "lifecycle.md"])
def test_a_generated_page_is_fresh(page: str) -> None:
    made = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "generate-docs"), page], capture_output=True, text=True, check=True
    ).stdout
    assert (ROOT / "docs" / page).read_text() == made, "run 'make docs' and commit"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?://|#|mailto:)([^)#]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []
