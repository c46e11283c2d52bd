"""Gradients of ONNX models: what onnx-ad writes, made quick, and run."""
