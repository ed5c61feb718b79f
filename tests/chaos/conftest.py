"""The same clusters as for the integration tests."""

from tests.integration.conftest import start_worker

__all__ = ["start_worker"]
