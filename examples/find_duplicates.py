"""Which pictures of a folder repeat a person, and how to be rid of them without losing any.

python examples/find_duplicates.py [checkpoint] [folder]
"""

import shutil
import sys
import tempfile
from pathlib import Path

import facekit
from facekit import FaceDeduplication, undo

checkpoint = sys.argv[1] if len(sys.argv) > 1 else None  # None: the one that ships with facekit
pictures = sys.argv[2] if len(sys.argv) > 2 else Path(facekit.__file__).with_name("pictures") / "people"

dedup = FaceDeduplication(checkpoint)

for group in dedup.find_duplicates(pictures):
    print(group)  # how alike, and what speaks for each picture
    for path in group:
        print("  keep" if path == group.keep else "  drop", path)

with tempfile.TemporaryDirectory() as scratch:
    folder = shutil.copytree(pictures, Path(scratch, "photos"))

    plan = dedup.remove_duplicates(folder, keep="best")  # moves nothing yet; plan.save("plan.json") keeps it
    print(f"pictures to go: {len(plan.removed)}")

    print(plan.apply())  # into a trash folder inside the folder
    print(undo(folder))  # and back
