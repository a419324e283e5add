"""Training runs: SFT and the preference arms, their folders and cards, and the plan of a run."""
