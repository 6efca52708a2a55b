"""The training room joins the model and ``nemo.lightning``; it is kept thin, since it is what will be replaced."""
