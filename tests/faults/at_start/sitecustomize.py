"""Python imports this before anything else where PYTHONPATH names the folder: so real commands are watched."""

import file_operations

file_operations.watch_as_told()
