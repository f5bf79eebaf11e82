"""Who is in these photographs? Enrol people, search, and meet strangers.

python examples/build_gallery.py [checkpoint] [folder of people] [queries ...]
"""

import sys
import tempfile
from pathlib import Path

import facekit
from facekit import FaceRecognition

pictures = Path(facekit.__file__).with_name("pictures")
checkpoint = sys.argv[1] if len(sys.argv) > 1 else None  # None: the one that ships with facekit
people = sys.argv[2] if len(sys.argv) > 2 else pictures / "people"
queries = sys.argv[3:] or sorted((pictures / "loose").glob("*.jpg"))

fr = FaceRecognition(checkpoint)

with tempfile.TemporaryDirectory() as folder:
    # Made the first time; later calls embed only what is new, and drop what has gone.
    file = Path(folder, "people.gallery")
    gallery = fr.build_gallery(people, update=file)
    print(f"{len(gallery)} people, {len(gallery.samples)} pictures, {file.stat().st_size // 1024} KiB")
    for skipped in gallery.skipped:
        print(f"skipped {skipped.source}: {skipped.reason}")

    # The vectors stay in the file, mapped into memory.
    gallery = fr.load_gallery(file)

    for picture in fr.stream(queries):  # all faces of each, however many pictures there are
        if picture.error:
            print(picture.error)
        for face in picture.faces[:3]:
            ranking = gallery.search(face.embedding, top_k=2)
            names = ", ".join(f"{person} {similarity:.3f}" for person, similarity in ranking)
            answer = fr.identify(face.embedding, gallery)
            print(f"{Path(picture.name).name:<18} {answer:<8} ({names})")
