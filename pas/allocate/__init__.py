"""From a budget to widths."""
