"""From an artefact to a model of its own library that runs."""
