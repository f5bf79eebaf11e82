"""Change to another model. Its embeddings do not compare with the old ones, and facekit says so.

python examples/upgrade_model.py old-checkpoint new-checkpoint [folder of people]

With a network, new-checkpoint may be a name of the Hugging Face Hub: opencv/face_recognition_sface
"""

import sys
import tempfile
from pathlib import Path

import facekit
from facekit import FaceRecognition, MismatchError

old, new = sys.argv[1:3]
pictures = Path(facekit.__file__).with_name("pictures")
people = sys.argv[3] if len(sys.argv) > 3 else pictures / "people"

with tempfile.TemporaryDirectory() as folder:
    file = Path(folder, "people.gallery")
    FaceRecognition(old).build_gallery(people, update=file)

    fr = FaceRecognition(new)
    try:
        gallery = fr.load_gallery(file)
    except MismatchError as error:
        print(error)
        gallery = fr.build_gallery(people)  # from the pictures, beside the old one
        gallery.save(file)  # which it replaces in one step

    for person, similarity in fr.search_in_gallery(pictures / "loose/query_1.jpg", gallery, top_k=3):
        print(f"{person}: {similarity:.3f}")

    if fr.config.calibration is None:  # thresholds belong to a model as well
        print("this checkpoint has no calibration: pass threshold=, or measure one with `facekit evaluate`")
