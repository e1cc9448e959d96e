"""Everything that decides: pure state machines, facts in and effects out. No socket, clock, thread or dice."""
