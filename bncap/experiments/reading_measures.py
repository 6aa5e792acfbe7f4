from bncap.experiments.readings import GAP as GAP
