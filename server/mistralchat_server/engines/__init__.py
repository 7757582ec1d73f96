"""Engine recipes: one YAML file per deployment target, its memory arithmetic, and what prepares it."""
