"""What the notebooks need: checks, figures, recorded results, running them, the doctor."""
