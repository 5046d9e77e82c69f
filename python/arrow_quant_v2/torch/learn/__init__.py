"""Learned rounding: codes and scales by gradient descent on the network's outputs."""
