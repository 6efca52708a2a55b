"""Read cells on disk, in any of several formats, as blocks of checked CSR rows."""
