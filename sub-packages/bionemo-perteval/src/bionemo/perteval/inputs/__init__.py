"""Read predicted and observed cells, check them, and bring them to one gene panel and one scale."""
