"""The one exception that the command line and the notebooks show without a traceback."""


class BncapError(Exception):
    """Something the user can mend; the message names the file, the record and the remedy."""
