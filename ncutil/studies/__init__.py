"""Studies too long for a chapter, whose tables are published: `phase_diagrams`."""
