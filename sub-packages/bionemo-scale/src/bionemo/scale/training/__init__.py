"""Training by NeMo: the glue between the model and ``nemo.lightning``, kept thin because it is what will be replaced."""
