"""Turn an evaluation into a page, tables and files."""
