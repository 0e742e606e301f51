"""Decoders at work: onnxruntime around exported and converted graphs."""
