"""python3 zip.py ZIP FOLDER FILE...: a zip of files of a folder, the same bytes from the same files on every machine."""
import sys
import zipfile
from pathlib import Path

target, folder, *names = sys.argv[1:]
with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
    for name in names:
        entry = zipfile.ZipInfo(name)  # 1980-01-01
        entry.create_system, entry.external_attr = 3, 0o100644 << 16
        archive.writestr(entry, Path(folder, name).read_bytes())
