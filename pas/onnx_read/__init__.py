"""ONNX files as plain torch networks."""
