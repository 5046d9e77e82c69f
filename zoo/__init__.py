"""Small, really trained diffusion models: how they were made, and how they are judged."""
