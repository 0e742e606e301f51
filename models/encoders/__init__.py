"""The encoders of the families, each in a form that can be exported. One family a file.

They mirror the files of `models/`, whose decoders they invert.
"""
