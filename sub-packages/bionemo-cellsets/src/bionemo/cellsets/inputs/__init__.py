"""Cells on disk in any of the formats that are read, brought to blocks of checked CSR rows."""
