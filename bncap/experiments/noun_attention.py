from bncap.experiments.grounding import AGAINST as AGAINST
from bncap.experiments.grounding import MEASURES as MEASURES
