"""Bell inequalities and what networks make of them: `chsh` (correlators, bounds, contextuality), `ncnet` (NCnet)."""
