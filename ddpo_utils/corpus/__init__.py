"""Stories: bundled, your own, r/writingPrompts; their words; the audit of a data set."""
