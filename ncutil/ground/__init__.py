"""Ground floor of the house: files (`files`) and what makes a kept result stale (`staleness`). It knows no science."""
