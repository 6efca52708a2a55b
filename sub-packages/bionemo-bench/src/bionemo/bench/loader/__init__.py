"""Reading sets of cells beside other projects' loaders."""
