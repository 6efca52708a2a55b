"""Training by NeMo: the glue between the model and ``nemo.lightning``, kept thin: it is what will be replaced."""
