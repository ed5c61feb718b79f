"""An asyncio gRPC server on grpcio's own core, which drains events in batches instead of waking the loop for each.

``grpc.aio`` moves every event through a polling thread and a socket to the event loop, which is most of what a call costs
it. Here the loop's own thread polls the core's completion queue and handles many events a turn while there are some; only
when there are none does a helper thread wait for the next, and wake the loop.

It leans on ``grpc._cython.cygrpc``, which grpcio's synchronous server is built on, but which is not public: ``shape`` says
whether it is as expected; where it is not, ``grpc.aio`` serves.
"""
