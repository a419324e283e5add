"""What is measured: usable stories, diversity, intervals and verdicts, the evaluation and its report."""
