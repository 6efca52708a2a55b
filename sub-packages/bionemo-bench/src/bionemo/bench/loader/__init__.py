"""Time reading sets of cells beside other projects' loaders."""
