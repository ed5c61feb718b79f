"""A caller in a process of its own: holds a slot, makes a ticket, or redeems one. Prints one line per step."""

from __future__ import annotations

import asyncio
import sys

import serve_core


async def hold(controller: str) -> None:
    """Reserves a slot, prints its token, and dispatches it when told to."""
    handle = serve_core.get_handle("crew", controller=controller)
    try:
        async with handle.choose_replica(timeout_s=60.0) as selection:
            print(selection.lease.token, flush=True)
            await asyncio.to_thread(sys.stdin.readline)
            await handle.dispatch(selection).work()
        print("ok", flush=True)
    except serve_core.ServeError as error:
        print(error.reason, flush=True)


async def ticket(controller: str) -> None:
    """Reserves a slot, prints it as a ticket, and ends."""
    handle = serve_core.get_handle("crew", controller=controller)
    async with handle.choose_replica(timeout_s=60.0) as selection:
        print(f"{await selection.ticket()}\t{selection.replica_id}", flush=True)


async def redeem(controller: str, text: str) -> None:
    """Dispatches a ticket, and prints who answered."""
    handle = serve_core.get_handle("crew", controller=controller)
    try:
        print((await handle.dispatch(text).work())["replica_id"], flush=True)
    except serve_core.ServeError as error:
        print(error.reason, flush=True)


async def main(command: str, controller: str, text: str = "") -> None:
    match command:
        case "hold":
            await hold(controller)
        case "ticket":
            await ticket(controller)
        case "redeem":
            await redeem(controller, text)
    await serve_core.close(controller)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
