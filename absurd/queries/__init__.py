"""One function per SQL call: arguments in, typed rows out; no I/O, and no SQL anywhere else."""
