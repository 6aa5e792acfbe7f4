"""What stands behind a claim: intervals, grounding, alignment, diversity, other readings of the paper, errors."""
