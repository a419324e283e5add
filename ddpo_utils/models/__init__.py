"""Language models: loaded, sampled (locally or behind an endpoint), prompted and scored."""
