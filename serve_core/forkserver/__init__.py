"""The fork server: a process that has imported a program, and forks into it whenever it is asked.

It has one thread and never uses gRPC; so what it forks is as clean as what was just started, and needs no imports.
"""
