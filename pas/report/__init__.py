"""Tables, figures and pages, made again from what runs left on disk."""
