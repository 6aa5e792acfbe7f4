from bncap.experiments.diagnostics import LOSSES as MEASURES  # noqa: F401
from bncap.experiments.diagnostics import summarise_convergence as summarise  # noqa: F401
