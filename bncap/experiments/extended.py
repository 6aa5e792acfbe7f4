from bncap.experiments.estimates import ERRORS as ERRORS
from bncap.experiments.estimates import EXTENDED as NAMES  # noqa: F401
from bncap.experiments.estimates import READINGS as READINGS
from bncap.experiments.estimates import extended_files as result_files  # noqa: F401
from bncap.experiments.estimates import read_extended as read  # noqa: F401
from bncap.experiments.estimates import write_extended as write  # noqa: F401
