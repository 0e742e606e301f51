"""One result object, shown: to a terminal, as JSON, as a page."""
