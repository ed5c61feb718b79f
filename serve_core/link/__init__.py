"""Many calls between a router and a replica in one connection, batched once for each turn of the event loop.

A call in a link is a call of gRPC in all but its carrier: the caller's end looks like a channel, and the replica's end runs
the handlers of its server.
"""
