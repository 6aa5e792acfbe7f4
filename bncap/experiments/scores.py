from bncap.experiments.comparisons import read_scores as read_scores
from bncap.experiments.comparisons import seed_mean_std as spread  # noqa: F401
from bncap.experiments.estimates import DIGITS as DIGITS
from bncap.experiments.estimates import rounded as known  # noqa: F401
from bncap.experiments.runs import TABLES as TABLES
