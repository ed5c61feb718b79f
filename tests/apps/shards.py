"""A gang whose members say who they are."""

import asyncio

import serve_core


class Shard:
    """One member of a gang."""

    async def where(self, seconds: float = 0.0) -> list[str | int]:
        gang = serve_core.get_replica_context().gang
        await asyncio.sleep(seconds)
        return [gang.gang_id, gang.rank, gang.size, gang.epoch]

    async def fail_at(self, rank: int) -> int:
        own = serve_core.get_replica_context().gang.rank
        if own == rank:
            raise ValueError(f"rank {rank} cannot")
        return own


shard = serve_core.deployment(
    num_replicas=6, gang={"size": 3, "route": "LEADER", "roles": ["head", "body", "tail"]}, cpus=0.1
)(Shard)
app = shard.bind()
