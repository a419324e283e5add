"""Files: written in one step, read line by line, and stores of answers that resume."""
