"""What the tests of health serve: it is ready and it answers, unless files say otherwise."""

from pathlib import Path

import serve_core


class Moody:
    """Its moods are files in a folder."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def is_ready(self) -> bool:
        return not (self.folder / self.name()).exists()

    async def who(self) -> str:
        return self.name()

    async def wedge(self) -> str:
        # A pipe: the event loop stands still until somebody writes.
        return (self.folder / "pipe").read_text()

    def name(self) -> str:
        return serve_core.get_replica_context().replica_id


moody = serve_core.deployment(Moody, cpus=0.1, readiness_period_s=0.05, heartbeat_period_s=0.1)
