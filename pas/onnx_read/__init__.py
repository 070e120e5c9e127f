"""ONNX files as plain torch networks."""

from pas.onnx_read.read import from_onnx as from_onnx
