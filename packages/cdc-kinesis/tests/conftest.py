"""What the tests of this package share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

# the modules beside this file are shared by its tests; --import-mode=importlib adds no path of its own
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(params=["asyncio", "trio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)
