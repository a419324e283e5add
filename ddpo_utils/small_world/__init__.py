"""Experiments whose quality is known: a grammar's world and its claims, and tiny stories."""
