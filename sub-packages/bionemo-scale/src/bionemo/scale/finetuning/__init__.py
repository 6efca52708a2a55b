"""A trained model to a run that trains it further: more names, other genes' order, fewer weights that move."""
