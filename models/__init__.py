"""Video VAE decoders of PyTorch, each in a form that can be exported. One family a file.

Importing this package needs no PyTorch; its modules do.
"""
