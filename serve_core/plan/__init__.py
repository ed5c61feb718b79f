"""Decides what the controller does: records and observations in, records and actions out.

Everything here is pure. Every ``now`` is in seconds since the Unix epoch, on a clock that does not jump within one life
of the controller: the wall clock as of its start plus the monotonic time since. Ids and randomness are arguments.

The controller folds events into what is observed (``fold``), plans (``reconcile``), saves the records of the plan, and
only then executes its actions, each of which is idempotent by its id; what comes of them are events again. A crash
at any line is repaired by planning again.
"""
