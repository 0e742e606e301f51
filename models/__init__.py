"""Video VAEs of PyTorch, each in a form that can be exported. One family a file; encoders apart.

Importing this package needs no PyTorch; its modules do.
"""
