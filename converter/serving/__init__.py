"""Graphs and streams behind the Open Inference Protocol, over HTTP and gRPC."""
