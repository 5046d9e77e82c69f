"""Networks of a library's own classes without weights, and what their parameters are for."""
