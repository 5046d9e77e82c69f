"""Networks of public models that others trained, told from the names and shapes of their tensors.

Their weights are not part of the repository; ``zoo/evaluate/real_models.py`` measures them.
"""
