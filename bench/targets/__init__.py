"""What is measured. The generated code of the echo imports itself as ``echo.v1``, so that its folder is to be found."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1]))
