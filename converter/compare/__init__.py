"""The same feed through two graphs: outputs, metrics, verdict."""
