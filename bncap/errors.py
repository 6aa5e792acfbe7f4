"""The exceptions that the command line and the notebooks show without a traceback."""


class BncapError(Exception):
    """Something the user can mend; the message names the file, the record and the remedy."""


class OutOfTime(BncapError):
    """The minutes of ``--minutes`` are used up; everything made is kept, and the same command goes on from there."""
