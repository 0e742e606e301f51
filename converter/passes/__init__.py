"""Rewrites around the convolutions: small, exact, one idea a file."""
