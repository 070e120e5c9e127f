"""A comparison to look at: how every method recovers from its cut, what it costs, and how far it is from the best baseline."""
