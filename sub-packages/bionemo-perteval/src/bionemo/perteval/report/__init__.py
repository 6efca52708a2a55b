"""An evaluation becomes a page, tables and files."""
