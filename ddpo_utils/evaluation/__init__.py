"""Usable stories, diversity, statistics, the evaluation of adapters, and the reward."""
