"""Tiny models of the true classes of diffusers and transformers, and the tests over all of them."""
