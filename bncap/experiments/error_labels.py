from bncap.experiments.error_analysis import NOTHING as NOTHING
from bncap.experiments.error_analysis import read_scenes as things_of  # noqa: F401
from bncap.experiments.error_analysis import reads_sentences as reads_sentences
