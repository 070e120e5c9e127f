"""What a network is trained for: its loss, and how good it is."""
