"""Tables and figures, made again from what runs left on disk."""
