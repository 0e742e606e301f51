"""What a command needs to serve, in one import: it fails as a whole where a library is missing."""

from converter.serving.access import Access
from converter.serving.cluster import Deployment, serve_on_ray
from converter.serving.lifecycle import Addresses, Certificate, Serving
from converter.serving.limits import Limits
from converter.serving.logs import log_as_json
from converter.serving.model import ModelFile
from converter.serving.server import Server

__all__ = [
    "Access",
    "Addresses",
    "Certificate",
    "Deployment",
    "Limits",
    "ModelFile",
    "Server",
    "Serving",
    "log_as_json",
    "serve_on_ray",
]
