"""Video VAE decoders, one family a file, as modules that export to ONNX."""
