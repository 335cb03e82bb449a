"""
Hostile input for every decoder.

    python -m tests.fuzz --cases 1000000 [--target NAME] [--seed N]

A target is a function of bytes, with examples of what it takes and the errors it may raise. To add one:

    TARGETS = [Target("journal", decode, [seed], (InvalidInput,))]      in a module here, which goes into `targets.MODULES`

What a run finds is told with the target and the input in hexadecimal, which belongs to its seeds from then on.
"""
