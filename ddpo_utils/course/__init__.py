"""What the notebooks need: checks of exercises, figures, recorded results, and running the notebooks."""
