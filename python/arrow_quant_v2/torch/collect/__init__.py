"""From recorded trajectories to statistics of the inputs of layers."""
