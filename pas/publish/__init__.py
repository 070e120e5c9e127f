"""Networks on disk: bundles and ONNX files."""
