"""Comparisons: which runs they are, that these are made, what they will take, and results of other programs beside theirs."""
