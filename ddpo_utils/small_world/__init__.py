"""A world with known truth: its grammar, its language model, its experiment and the claims."""
