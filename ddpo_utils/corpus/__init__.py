"""Stories in: bundled ones, your own files, r/writingPrompts; their words; the audit of a data set."""
