"""What writes the reference pages from the code: one module a page."""
