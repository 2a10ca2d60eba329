"""A folder of files to documents: what there is, and what each file says.

`find_files` lists the files of a folder, those left out with the reason; `read_files` gives the documents of
each, read in child processes that a hostile file can neither crash nor hang for the rest; `read_file` reads
one file here. A format is one module with one function: see `READERS` in `fieldstone.read.file`.
"""

from fieldstone.read.file import Reader, ReadWarning, read_bytes, read_file
from fieldstone.read.find import MAX_BYTES, Found, find_files
from fieldstone.read.pool import Limits, ReadResult, read_files

__all__ = [
    "MAX_BYTES",
    "Found",
    "Limits",
    "ReadResult",
    "ReadWarning",
    "Reader",
    "find_files",
    "read_bytes",
    "read_file",
    "read_files",
]
