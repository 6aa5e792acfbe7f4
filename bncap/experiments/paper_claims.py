from bncap.experiments.claims import NOT_TESTED as NOT_TESTED
from bncap.experiments.claims import score_pairs as score_pairs
