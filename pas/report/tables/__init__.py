"""Tables of an experiment, made again from the results that lie beside it, with published numbers beside them."""
